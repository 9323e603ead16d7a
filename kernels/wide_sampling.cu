// One token per row of a large vocabulary, by the rule of numpy_sampling.py, exactly as argmax and
// sample of sampling.cu find it. One block would read such a row for too long: it is cut into
// shares, a warp takes a share, and the whole chip reads the row.
//
// share_maxima: the largest of each share; the first kernel of each draw.
//
//   logits     [num_rows, vocab_size]  float32, contiguous
//   maxima     [num_rows, num_shares]  int32: ordered bits
//   state      [num_rows, 2]           int32: blocks that arrived, whether the row is flat; set to 0
//   histogram  [num_rows, 2048]        uint64, set to 0; null where no sample_shares follows
//
//   grid    num_rows x any number of blocks; the warps of a row take its shares in turn
//   block   a multiple of 32 threads
//   memory  reads logits once; bandwidth-bound
//   needs   share_size % 256 == 0, num_shares = ceil(vocab_size / share_size)
//
// argmax_of_shares: the largest logit, of several the lowest id.
//
//   out        [num_rows]              int32
//
//   grid    num_rows blocks
//   block   a multiple of 32 threads
//   memory  reads maxima and one share
//   needs   as share_maxima
//
// sample_shares: the draw. Where top_k or top_p is on, candidates are the logits above a cutoff
// that about as many exceed as are needed; they are few, and the row's last block filters and
// draws from them alone. It knows whether they were enough; if not (many ties, a very large
// top_k), it does as `sample` does, with the whole row. Where neither is on, the draw needs only
// the shares' sums and one share. A row so flat that the candidates would not hold what top_p
// asks for is only counted, and left to sample_flat.
//
//   temperatures ... out               as of sample; maxima, state, histogram of share_maxima
//   words      [num_rows, ceil(vocab_size / 32)]  int32: scratch, a bit for each candidate
//   sums       [num_rows, num_shares]             uint64: scratch, of the share's weights
//
//   grid    num_rows x any number of blocks
//   block   a multiple of 32 threads, up to 512
//   memory  reads logits once, and gathers the candidates; 41 KiB of shared memory
//   needs   as share_maxima; num_shares <= 1024
//
// sample_flat: what is left. The histogram tells in which of its bins top_p cuts; the candidates
// are that bin's logits, and what lies above is certain.
//
//   arrays, grid and block as of sample_shares
//
//   memory  reads the logits of flat rows once; nothing of others
//   needs   as sample_shares, which has run
#include "wide_row.cuh"

__global__ void __launch_bounds__(1024)
    share_maxima(const float* __restrict__ logits, int* maxima, int* state, Count* histogram,
                 int vocab_size, int share_size, int num_shares) {
  const float* row = logits + (size_t)blockIdx.x * vocab_size;
  const int num_warps = blockDim.x / kWarpSize;
  if (blockIdx.y == 0 && threadIdx.x < 2) state[2 * blockIdx.x + threadIdx.x] = 0;
  if (histogram)
    for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < kNumBins; i += gridDim.y * blockDim.x)
      histogram[(size_t)blockIdx.x * kNumBins + i] = 0;
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
    if (threadIdx.x % kWarpSize == 0)
      maxima[(size_t)blockIdx.x * num_shares + share] = (int)largest;
  }
}

__global__ void __launch_bounds__(1024)
    argmax_of_shares(const float* __restrict__ logits, const int* maxima, int* out, int vocab_size,
                     int share_size, int num_shares) {
  const WideRow wide(logits, maxima, vocab_size, share_size, num_shares);
  const int position = wide.position_of(wide.largest());
  if (threadIdx.x == 0) out[blockIdx.x] = position;
}

// What narrows a row down to its candidates.
struct Guess {
  float cutoff;  // candidates are above it
  bool flat;     // too much weight is likely to lie below it
};

// A cutoff that about `wanted` logits exceed: as many shares have their largest above it, each
// another logit. Both are no more than good guesses, but all blocks of a row make the same.
__device__ inline Guess guess(Count* bins, const WideRow& wide, const WeightedRow& row,
                              float largest, int wanted, float top_p) {
  clear_bins(bins);
  Count own = 0;
  for (int s = threadIdx.x; s < wide.num_shares; s += blockDim.x) {
    const float scaled = from_ordered_bits(wide.maximum(s)) / row.temperature;
    own += row.weight(scaled);
    add_to(&bins[row.bin(scaled)], 1);
  }
  const float held = block_sum(own);  // all shares are counted, too
  Count needed = wanted;
  // A bin lower than the one where the counts suffice: room for what rounding does.
  const float below = (kNumBins + 1 - crossing_bin(bins, &needed)) / kBinsPerUnit;
  const float cutoff = largest - row.temperature * below;
  // Were all others right below the cutoff, they would weigh this; an eighth of it is more like it.
  const float left = wide.vocab_size * expf(-below) * kWeightOne / 8;
  const bool flat = held > 0.0f && left > (1.0f - top_p) * held;
  return {cutoff < largest ? cutoff : -infinity(), flat};
}

// Candidates in shared memory, in the order of their ids.
struct Listed {
  float* logits;
  int* ids;
  int count;
};

// A draw from the candidates, if these are enough to know what top_k and top_p leave, else from
// the whole row; -1 if all weights are 0. total: 0 if it is not known.
__device__ inline int draw_from_candidates(Count* bins, const WideRow& wide, WeightedRow row,
                                           Filters filters, const Listed& listed, float cutoff,
                                           Count total, Count fraction) {
  // What is not listed is at most this after the division, which keeps order.
  const float highest_left = cutoff / row.temperature;
  for (bool narrow = listed.count <= kMaxListed;; narrow = false) {
    row.logits = narrow ? listed.logits : wide.logits;
    const int size = narrow ? listed.count : wide.vocab_size;
    unsigned lowest_floor;
    const Survivors survivors = filter(bins, row, size, filters, total, &lowest_floor);
    // Either it weighs nothing, or it is below both floors.
    const bool enough = row.largest - highest_left >= kWeightless ||
                        (filters.top_k <= size && lowest_floor > ordered_bits(highest_left));
    if (narrow && !enough) continue;
    const int drawn = draw(row, survivors, size, fraction);
    return narrow && drawn >= 0 ? listed.ids[drawn] : drawn;
  }
}

// Two blocks per multiprocessor: with more of them, or with larger ones, registers would spill.
__global__ void __launch_bounds__(512, 2)
    sample_shares(const float* __restrict__ logits, const float* temperatures, const int* top_ks,
                  const float* top_ps, const float* min_ps, const int* seeds, const int* positions,
                  int* out, const int* maxima, int* state, Count* histogram, int* words,
                  Count* sums, int vocab_size, int share_size, int num_shares) {
  __shared__ Count bins[kNumBins];
  __shared__ float listed_logits[kMaxListed];
  __shared__ int listed_ids[kMaxListed];
  const int i = blockIdx.x;
  const WideRow wide(logits, maxima, vocab_size, share_size, num_shares);
  const float temperature = temperatures[i];
  if (temperature == 0.0f && blockIdx.y > 0) return;
  const unsigned largest_bits = wide.largest();
  int token = -1;
  if (temperature != 0.0f) {
    const float largest = from_ordered_bits(largest_bits);
    const WeightedRow row = {wide.logits, temperature, largest / temperature};
    Filters filters = {top_ks[i], top_ps[i], min_ps[i]};
    if (filters.top_k >= vocab_size) filters.top_k = 0;
    const bool cut_k = filters.top_k > 0;
    const bool narrowed = cut_k || filters.top_p < 1.0f;
    int* row_words = narrowed ? words + (size_t)i * wide.num_words() : nullptr;
    Count* row_sums = cut_k ? nullptr : sums + (size_t)i * num_shares;
    Guess guessed = {0.0f, false};
    if (narrowed) {
      // Of nearly all shares the largest: two to three times as many logits are above that.
      const int wanted = min(cut_k ? filters.top_k : num_shares, num_shares - num_shares / 16);
      guessed = guess(bins, wide, row, largest, wanted, filters.top_p);
    }
    if (!cut_k && guessed.flat) {
      clear_bins(bins);
      survey(
          wide, nullptr, row_sums, [](float) { return false; },
          [&](float logit) {
            const float scaled = logit / temperature;
            const Count weight = row.weight(scaled);
            if (weight != 0) add_to(&bins[row.bin(scaled)], weight);
            return weight;
          });
      __syncthreads();  // all logits are counted
      for (int b = threadIdx.x; b < kNumBins; b += blockDim.x)
        if (bins[b] != 0) atomicAdd(&histogram[(size_t)i * kNumBins + b], bins[b]);
      if (threadIdx.x == 0) state[2 * i + 1] = 1;
      return;
    }
    const Survivors all = {0, narrowed ? 0 : min_weight_of(filters.min_p)};
    survey(
        wide, row_words, row_sums, [&](float logit) { return logit > guessed.cutoff; },
        [&](float logit) { return all.weight(row, logit / temperature); });
    if (!arrives_last(&state[2 * i])) return;
    const Count fraction = random_fraction(seeds, positions, i);
    if (narrowed) {
      const Count total = cut_k ? 0 : sum_of_shares(row_sums, num_shares);
      const int count = list_candidates(wide, row_words, listed_logits, listed_ids);
      token = draw_from_candidates(bins, wide, row, filters, {listed_logits, listed_ids, count},
                                   guessed.cutoff, total, fraction);
    } else {
      fetch_sums(bins, row_sums, num_shares);
      token = draw_by_shares(wide, row, all, bins, fraction);
    }
  }
  if (token < 0) token = wide.position_of(largest_bits);
  if (threadIdx.x == 0) out[i] = token;
}

__global__ void __launch_bounds__(512, 2)
    sample_flat(const float* __restrict__ logits, const float* temperatures, const float* top_ps,
                const float* min_ps, const int* seeds, const int* positions, int* out,
                const int* maxima, int* state, const Count* histogram, int* words, Count* sums,
                int vocab_size, int share_size, int num_shares) {
  __shared__ Count bins[kNumBins];
  __shared__ float listed_logits[kMaxListed];
  __shared__ int listed_ids[kMaxListed];
  const int i = blockIdx.x;
  if (state[2 * i + 1] == 0) return;
  const WideRow wide(logits, maxima, vocab_size, share_size, num_shares);
  const float temperature = temperatures[i];
  const WeightedRow row = {wide.logits, temperature,
                           from_ordered_bits(wide.largest()) / temperature};
  const Filters filters = {0, top_ps[i], min_ps[i]};
  Survivors survivors = {0, min_weight_of(filters.min_p)};
  fetch_sums(bins, histogram + (size_t)i * kNumBins, kNumBins);
  const Count total = sum_of_shares(histogram + (size_t)i * kNumBins, kNumBins);
  Count needed = needed_of(filters.top_p, total);
  const int bin = crossing_bin(bins, &needed);
  int* row_words = words + (size_t)i * wide.num_words();
  Count* row_sums = sums + (size_t)i * num_shares;
  survey(
      wide, row_words, row_sums, [&](float logit) { return row.bin(logit / temperature) == bin; },
      [&](float logit) {
        const float scaled = logit / temperature;
        return row.bin(scaled) > bin ? survivors.weight(row, scaled) : 0;
      });
  if (!arrives_last(&state[2 * i])) return;
  const Count fraction = random_fraction(seeds, positions, i);
  const int count = list_candidates(wide, row_words, listed_logits, listed_ids);
  int token;
  if (count <= kMaxListed) {
    const auto scaled_of = [&](int n) { return listed_logits[n] / temperature; };
    survivors.floor = select_largest(bins, count, &needed, [&](int n, unsigned* bits) {
      *bits = ordered_bits(scaled_of(n));
      return row.weight(scaled_of(n));
    });
    fetch_sums(bins, row_sums, num_shares);
    for (int n = threadIdx.x; n < count; n += blockDim.x)
      add_to(&bins[listed_ids[n] / share_size], survivors.weight(row, scaled_of(n)));
    __syncthreads();  // the bin's survivors are in the sums
    token = draw_by_shares(wide, row, survivors, bins, fraction);
  } else {
    unsigned lowest_floor;
    survivors = filter(bins, row, vocab_size, filters, total, &lowest_floor);
    token = draw(row, survivors, vocab_size, fraction);
  }
  if (threadIdx.x == 0) out[i] = token;
}
