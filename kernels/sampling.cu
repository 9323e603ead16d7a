// One token per row of logits, by the rule of numpy_sampling.py.
//
// argmax: the largest logit, of several the lowest id.
//
//   logits  [num_rows, vocab_size]  float32, contiguous
//   out     [num_rows]              int32
//
//   grid    num_rows blocks; a block owns a row
//   block   a multiple of 32 threads
//   memory  reads logits once
//   needs   vocab_size >= 1
//
// sample: a draw from the softmax of logits / temperature, cut by top_k, top_p and min_p. A weight
// is floor(exp(logit / temperature - largest) * 2^40), and everything after it is arithmetic on
// integers: no order of the threads, and no batch mate, changes the token.
//
//   logits                                 [num_rows, vocab_size]  float32, contiguous
//   temperatures, top_ps, min_ps           [num_rows]              float32; 0, 1, 0 switch off
//   top_ks                                 [num_rows]              int32; 0 switches off
//   seeds                                  [num_rows, 2]           int32: low and high half
//   positions                              [num_rows]              int32
//   out                                    [num_rows]              int32
//
//   grid    num_rows blocks; a block owns a row
//   block   a multiple of 32 threads, 64 to 512: of 1024, each would have too few registers
//   memory  reads logits once for the largest and three times for the draw, and from cache four
//           to six times more for top_k and for top_p each; 17 KiB of shared memory
//   needs   1 <= vocab_size <= 2^23, so that a sum of weights fits 64 bits
//
// A row of a large vocabulary is too long for one block. It is cut into shares, one warp a share,
// and read twice by the whole chip:
//
// share_maxima: the largest of each share, for the two below.
//
//   logits   [num_rows, vocab_size]  float32, contiguous
//   maxima   [num_rows, num_shares]  int32: ordered bits
//   arrived  [num_rows]              int32: set to 0
//
//   grid    num_rows x any number of blocks; warps of a row take its shares in turn
//   block   a multiple of 32 threads
//   memory  reads logits once; bandwidth-bound
//   needs   share_size % 256 == 0, num_shares = ceil(vocab_size / share_size)
//
// argmax_of_shares: what argmax does, from maxima.
//
//   grid    num_rows blocks
//   block   a multiple of 32 threads
//   memory  reads maxima and one share
//
// sample_shares: what sample does, from maxima. Where top_k or top_p is on, a logit must be above
// a cutoff that about as many exceed as are needed; such candidates are few, and the row's last
// block filters and draws from them alone. It knows whether they were enough; if not (a flat
// row and top_p, a very large top_k, many ties) it does as `sample` does, with the whole row.
// Without top_k and top_p the draw needs only the shares' sums and one share.
//
//   arrays as of sample and share_maxima, and scratch:
//   words   [num_rows, ceil(vocab_size / 32)]  int32: a bit for each candidate
//   sums    [num_rows, num_shares]             uint64: of the share's weights
//
//   grid    num_rows x any number of blocks
//   block   512 threads
//   memory  reads logits once; the last block of a row reads words and gathers the candidates;
//           41 KiB of shared memory
//   needs   as share_maxima; num_shares <= 1024; arrived holds 0
//
// random_words: the generator alone, for its known answers.
//
//   counters  [num_rows, 4]  int32        keys  [num_rows, 2]  int32        out  [num_rows, 4]  int32
//
//   grid    ceil(num_rows / 128) blocks
//   block   128 threads; a thread owns a row
//   memory  negligible
//   needs   nothing
#include "draw.cuh"
#include "philox.cuh"

constexpr int kTileLoads = 8;
constexpr int kTile = kTileLoads * kWarpSize;  // what a warp loads at once
constexpr int kMaxListed = 3072;               // candidates that fit into shared memory

__device__ inline Count random_fraction(const int* seeds, const int* positions, int row) {
  const PhiloxWords random =
      philox({{(unsigned)positions[row], 0, 0, 0}}, seeds[2 * row], seeds[2 * row + 1]);
  return (Count)random.word[1] << 32 | random.word[0];
}

__global__ void __launch_bounds__(1024)
    argmax(const float* __restrict__ logits, int* out, int vocab_size) {
  const int best = position_of_largest(logits + (size_t)blockIdx.x * vocab_size, vocab_size);
  if (threadIdx.x == 0) out[blockIdx.x] = best;
}

// Two blocks per multiprocessor: of a larger block each thread would have too few registers.
__global__ void __launch_bounds__(512, 2)
    sample(const float* __restrict__ logits, const float* temperatures, const int* top_ks,
           const float* top_ps, const float* min_ps, const int* seeds, const int* positions,
           int* out, int vocab_size) {
  __shared__ Count bins[kNumBins];
  const int i = blockIdx.x;
  const float* row_logits = logits + (size_t)i * vocab_size;
  int token = position_of_largest(row_logits, vocab_size);
  if (temperatures[i] != 0.0f) {
    const WeightedRow row = {row_logits, temperatures[i], row_logits[token] / temperatures[i]};
    unsigned lowest_floor;
    const Survivors survivors =
        filter(bins, row, vocab_size, {top_ks[i], top_ps[i], min_ps[i]}, 0, &lowest_floor);
    const int drawn = draw(row, survivors, vocab_size, random_fraction(seeds, positions, i));
    if (drawn >= 0) token = drawn;
  }
  if (threadIdx.x == 0) out[i] = token;
}

// A tile of a row, kTileLoads logits a lane; beyond `end` -infinity.
__device__ inline void load_tile(const float* row, int tile, int end, float* logit) {
#pragma unroll
  for (int k = 0; k < kTileLoads; ++k) {
    const int i = tile + k * kWarpSize + (int)threadIdx.x % kWarpSize;
    logit[k] = i < end ? row[i] : -infinity();
  }
}

__global__ void __launch_bounds__(1024)
    share_maxima(const float* __restrict__ logits, int* maxima, int* arrived, int vocab_size,
                 int share_size, int num_shares) {
  const float* row = logits + (size_t)blockIdx.x * vocab_size;
  const int num_warps = blockDim.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (blockIdx.y == 0 && threadIdx.x == 0) arrived[blockIdx.x] = 0;
  for (int share = blockIdx.y * num_warps + threadIdx.x / kWarpSize; share < num_shares;
       share += gridDim.y * num_warps) {
    const int end = min((share + 1) * share_size, vocab_size);
    unsigned largest = 0;
    for (int tile = share * share_size; tile < end; tile += kTile) {
      float logit[kTileLoads];
      load_tile(row, tile, end, logit);
#pragma unroll
      for (int k = 0; k < kTileLoads; ++k) largest = max(largest, ordered_bits(logit[k]));
    }
    largest = warp_max(largest);
    if (lane == 0) maxima[(size_t)blockIdx.x * num_shares + share] = (int)largest;
  }
}

// A row that was cut into shares.
struct SharedRow {
  const float* logits;
  const int* maxima;
  int vocab_size, share_size, num_shares;

  __device__ unsigned maximum(int share) const { return (unsigned)maxima[share]; }

  // The row's largest logit, to all threads.
  __device__ unsigned largest() const {
    unsigned largest = 0;
    for (int s = threadIdx.x; s < num_shares; s += blockDim.x) largest = max(largest, maximum(s));
    return block_max(largest);
  }

  // The lowest position that holds `largest`, to all threads.
  __device__ int position_of(unsigned largest) const {
    unsigned highest = 0;  // of the inverted indices
    for (int s = threadIdx.x; s < num_shares; s += blockDim.x)
      if (maximum(s) == largest) highest = max(highest, ~(unsigned)s);
    const int begin = (int)~block_max(highest) * share_size;
    return begin + position_of_largest(logits + begin, min(share_size, vocab_size - begin));
  }
};

__global__ void __launch_bounds__(1024)
    argmax_of_shares(const float* __restrict__ logits, const int* maxima, int* out, int vocab_size,
                     int share_size, int num_shares) {
  const SharedRow row = {logits + (size_t)blockIdx.x * vocab_size,
                         maxima + (size_t)blockIdx.x * num_shares, vocab_size, share_size,
                         num_shares};
  const int position = row.position_of(row.largest());
  if (threadIdx.x == 0) out[blockIdx.x] = position;
}

// A logit that about `wanted` logits exceed: as many shares have their largest above it, each
// another logit. It is no more than a good guess.
__device__ inline float guess_cutoff(Count* bins, const SharedRow& shared_row,
                                     const WeightedRow& row, float largest, int wanted) {
  clear_bins(bins);
  for (int s = threadIdx.x; s < shared_row.num_shares; s += blockDim.x)
    add_to(&bins[row.bin(from_ordered_bits(shared_row.maximum(s)) / row.temperature)], 1);
  __syncthreads();  // all shares are counted
  Count needed = min(wanted, shared_row.num_shares);
  const int bin = crossing_bin(bins, &needed);
  // A bin lower than the chosen one: room for what rounding does.
  const float cutoff = largest - row.temperature * ((kNumBins + 1 - bin) / kBinsPerUnit);
  return cutoff < largest ? cutoff : -infinity();
}

// What one block of a row's blocks leaves to the last one: a bit for each logit above the cutoff
// (where `words` is not null), and the sum of each share's weights (where `sums` is not).
__device__ inline void survey(const SharedRow& shared_row, const WeightedRow& row, float cutoff,
                              Survivors survivors, int* words, Count* sums) {
  const int num_warps = blockDim.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int num_words = (shared_row.vocab_size + kWarpSize - 1) / kWarpSize;
  for (int share = blockIdx.y * num_warps + threadIdx.x / kWarpSize; share < shared_row.num_shares;
       share += gridDim.y * num_warps) {
    const int end = min((share + 1) * shared_row.share_size, shared_row.vocab_size);
    Count sum = 0;
    for (int tile = share * shared_row.share_size; tile < end; tile += kTile) {
      float logit[kTileLoads];
      load_tile(shared_row.logits, tile, end, logit);
      if (words) {
        unsigned own_word = 0;
#pragma unroll
        for (int k = 0; k < kTileLoads; ++k) {
          const unsigned word = __ballot_sync(kFullMask, logit[k] > cutoff);
          if (lane == k) own_word = word;
        }
        const int at = tile / kWarpSize + lane;
        if (lane < kTileLoads && at < num_words) words[at] = (int)own_word;
      }
      if (sums) {
#pragma unroll
        for (int k = 0; k < kTileLoads; ++k)
          sum += survivors.weight(row, logit[k] / row.temperature);
      }
    }
    if (sums) {
      sum = warp_sum(sum);
      if (lane == 0) sums[share] = sum;
    }
  }
}

// Whether this is the last of the row's blocks to come here, to all its threads. Then it sees all
// that the others wrote before: each thread's writes are fenced before the block counts itself,
// and it reads only after it has seen all counts. Works in any order of the blocks.
__device__ inline bool arrives_last(int* arrived) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();  // all threads' writes are fenced
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1) == (int)gridDim.y - 1;
  __syncthreads();  // last is there
  __threadfence();
  return last;
}

// Gathers the candidates in the order of their ids; all threads get their number. If it is above
// kMaxListed, the list holds nothing of use.
__device__ inline int list_candidates(const SharedRow& row, const int* words, float* listed,
                                      int* ids) {
  const int num_words = (row.vocab_size + kWarpSize - 1) / kWarpSize;
  const int per_thread = (num_words + blockDim.x - 1) / blockDim.x;
  const int begin = threadIdx.x * per_thread;
  const int end = min(num_words, begin + per_thread);
  int own = 0;
  for (int w = begin; w < end; ++w) own += __popc(__ldcg(words + w));
  int place = block_sum_before(own);
  const int count = block_sum(own);
  if (count > kMaxListed) return count;
  for (int w = begin; w < end; ++w)
    for (unsigned word = __ldcg(words + w); word != 0; word &= word - 1)
      ids[place++] = w * kWarpSize + __ffs(word) - 1;
  __syncthreads();  // all ids are there
  for (int n = threadIdx.x; n < count; n += blockDim.x) listed[n] = row.logits[ids[n]];
  __syncthreads();  // all logits are there
  return count;
}

__device__ inline Count sum_of_shares(const Count* sums, int num_shares) {
  Count own = 0;
  for (int s = threadIdx.x; s < num_shares; s += blockDim.x) own += __ldcg(sums + s);
  return block_sum(own);
}

// A draw from all of a row, by the sums of its shares; -1 if they are 0.
__device__ inline int draw_by_shares(const SharedRow& shared_row, WeightedRow row,
                                     Survivors survivors, const Count* sums, Count fraction) {
  __shared__ int chosen;
  __shared__ Count target_inside;
  const int per_thread = (shared_row.num_shares + blockDim.x - 1) / blockDim.x;
  const int begin = threadIdx.x * per_thread;
  const int end = min(shared_row.num_shares, begin + per_thread);
  Count own = 0;
  for (int s = begin; s < end; ++s) own += __ldcg(sums + s);
  Count before = block_sum_before(own);
  const Count total = block_sum(own);
  if (total == 0) return -1;
  const Count target = __umul64hi(fraction, total);
  if (before <= target && target < before + own) {
    int share = begin;
    for (; before + __ldcg(sums + share) <= target; ++share) before += __ldcg(sums + share);
    chosen = share;
    target_inside = target - before;
  }
  __syncthreads();  // the share is there
  const int first = chosen * shared_row.share_size;
  const int size = min(shared_row.share_size, shared_row.vocab_size - first);
  row.logits += first;
  return first + position_at(row, survivors, size, target_inside);
}

// A draw from the candidates, if these are enough to know what top_k and top_p leave, else from
// the whole row; -1 if all weights are 0.
__device__ inline int draw_from_candidates(Count* bins, const SharedRow& shared_row,
                                           WeightedRow row, Filters filters, float cutoff,
                                           const int* words, const Count* sums, Count fraction) {
  __shared__ float listed[kMaxListed];
  __shared__ int ids[kMaxListed];
  const Count total = sums ? sum_of_shares(sums, shared_row.num_shares) : 0;
  const int count = list_candidates(shared_row, words, listed, ids);
  int size = shared_row.vocab_size;
  bool narrow = count <= kMaxListed;
  if (narrow) {
    row.logits = listed;
    size = count;
  }
  for (;;) {
    unsigned lowest_floor;
    const Survivors survivors = filter(bins, row, size, filters, total, &lowest_floor);
    // What is not listed is at most `highest_left` after the division, which keeps order. Either
    // it weighs nothing, or it is below both floors.
    const float highest_left = cutoff / row.temperature;
    const bool enough = row.largest - highest_left >= kWeightless ||
                        (filters.top_k <= count && lowest_floor > ordered_bits(highest_left));
    if (narrow && !enough) {
      narrow = false;
      row.logits = shared_row.logits;
      size = shared_row.vocab_size;
      continue;
    }
    const int drawn = draw(row, survivors, size, fraction);
    return narrow && drawn >= 0 ? ids[drawn] : drawn;
  }
}

__global__ void __launch_bounds__(512, 2)
    sample_shares(const float* __restrict__ logits, const float* temperatures, const int* top_ks,
                  const float* top_ps, const float* min_ps, const int* seeds, const int* positions,
                  int* out, const int* maxima, int* arrived, int* words, Count* sums,
                  int vocab_size, int share_size, int num_shares) {
  __shared__ Count bins[kNumBins];
  const int i = blockIdx.x;
  const int num_words = (vocab_size + kWarpSize - 1) / kWarpSize;
  const SharedRow shared_row = {logits + (size_t)i * vocab_size, maxima + (size_t)i * num_shares,
                                vocab_size, share_size, num_shares};
  const float temperature = temperatures[i];
  if (temperature == 0.0f && blockIdx.y > 0) return;
  const unsigned largest_bits = shared_row.largest();
  int token = -1;
  if (temperature != 0.0f) {
    const float largest = from_ordered_bits(largest_bits);
    const WeightedRow row = {shared_row.logits, temperature, largest / temperature};
    Filters filters = {top_ks[i], top_ps[i], min_ps[i]};
    if (filters.top_k >= vocab_size) filters.top_k = 0;
    const bool narrowed = filters.top_k > 0 || filters.top_p < 1.0f;
    // The candidates of top_p: as many as a guess from the shares can give.
    const int wanted = filters.top_k > 0 ? filters.top_k : num_shares - num_shares / 16;
    const float cutoff = narrowed ? guess_cutoff(bins, shared_row, row, largest, wanted) : 0.0f;
    const Survivors all = {0, narrowed ? 0 : min_weight_of(filters.min_p)};
    int* row_words = narrowed ? words + (size_t)i * num_words : nullptr;
    Count* row_sums = filters.top_k > 0 ? nullptr : sums + (size_t)i * num_shares;
    survey(shared_row, row, cutoff, all, row_words, row_sums);
    if (!arrives_last(arrived + i)) return;
    const Count fraction = random_fraction(seeds, positions, i);
    token = narrowed ? draw_from_candidates(bins, shared_row, row, filters, cutoff, row_words,
                                            row_sums, fraction)
                     : draw_by_shares(shared_row, row, all, row_sums, fraction);
  }
  if (token < 0) token = shared_row.position_of(largest_bits);
  if (threadIdx.x == 0) out[i] = token;
}

__global__ void random_words(const int* counters, const int* keys, int* out, int num_rows) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_rows) return;
  PhiloxWords counter;
  for (int k = 0; k < 4; ++k) counter.word[k] = counters[4 * i + k];
  const PhiloxWords words = philox(counter, keys[2 * i], keys[2 * i + 1]);
  for (int k = 0; k < 4; ++k) out[4 * i + k] = (int)words.word[k];
}
