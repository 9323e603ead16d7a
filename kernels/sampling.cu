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
//   memory  reads logits once for the largest and once for the draw, three times more for top_k,
//           four for top_p (from cache); 17 KiB of shared memory
//   needs   1 <= vocab_size <= 2^23, so that a sum of weights fits 64 bits
//
// random_words: the generator alone, for its known answers.
//
//   counters  [num_rows, 4]  int32        keys  [num_rows, 2]  int32        out  [num_rows, 4]  int32
//
//   grid    ceil(num_rows / 128) blocks
//   block   128 threads; a thread owns a row
//   memory  negligible
//   needs   nothing
#include "philox.cuh"
#include "select.cuh"

struct WeightedRow {
  const float* logits;
  float temperature, largest;  // largest: after division

  __device__ float scaled(int i) const { return logits[i] / temperature; }

  __device__ Count weight(float scaled_logit) const {
    const float weight = expf(scaled_logit - largest) * 1099511627776.0f;  // 2^40
    return weight <= 1099511627776.0f ? (Count)weight : 0;                 // NaN has no weight
  }
};

// What is left of a row after the filters: logits from `floor` up with weights from `min_weight`.
struct Survivors {
  unsigned floor;
  Count min_weight;

  __device__ Count weight(const WeightedRow& row, int i) const {
    const float scaled = row.scaled(i);
    if (ordered_bits(scaled) < floor) return 0;
    const Count weight = row.weight(scaled);
    return weight < min_weight ? 0 : weight;
  }
};

__device__ inline Survivors filter(const WeightedRow& row, int vocab_size, int top_k, float top_p,
                                   float min_p) {
  __shared__ Count bins[kNumBins];
  Survivors survivors = {0, 0};
  if (top_k > 0 && top_k < vocab_size) {
    Count needed = top_k;
    survivors.floor =
        select_largest(bins, vocab_size, &needed, [&](int i, unsigned* bits) -> Count {
          *bits = ordered_bits(row.scaled(i));
          return 1;
        });
  }
  if (top_p < 1.0f) {
    Count own = 0;
    for (int i = threadIdx.x; i < vocab_size; i += blockDim.x) own += survivors.weight(row, i);
    const Count total = block_sum(own);
    Count needed = max((Count)1, (Count)(double(top_p) * double(total)));
    const unsigned floor = select_largest(bins, vocab_size, &needed, [&](int i, unsigned* bits) {
      *bits = ordered_bits(row.scaled(i));
      return survivors.weight(row, i);
    });
    survivors.floor = max(survivors.floor, floor);
  }
  if (min_p > 0.0f) survivors.min_weight = (Count)(double(min_p) * 1099511627776.0);
  return survivors;
}

// The first position, in order, whose running sum of weights exceeds `fraction` / 2^64 of the
// total; `otherwise` if all weights are 0. Each warp sums a share of the range, the share that
// holds the target becomes the range, until a warp can hold it.
__device__ inline int draw(const WeightedRow& row, Survivors survivors, int size, Count fraction,
                           int otherwise) {
  __shared__ Count share_sums[kWarpSize];
  __shared__ int found;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int num_warps = blockDim.x / kWarpSize;
  Count target = 0;
  int begin = 0, end = size;
  for (bool first_round = true; first_round || end - begin > kWarpSize; first_round = false) {
    const int share = (end - begin + num_warps - 1) / num_warps;
    const int share_end = min(end, begin + (warp + 1) * share);
    Count sum = 0;
    for (int i = begin + warp * share + lane; i < share_end; i += kWarpSize)
      sum += survivors.weight(row, i);
    sum = warp_sum(sum);
    __syncthreads();  // the sums of the round before are still being read
    if (lane == 0) share_sums[warp] = sum;
    __syncthreads();  // all sums are there
    if (first_round) {
      Count total = 0;
      for (int w = 0; w < num_warps; ++w) total += share_sums[w];
      if (total == 0) return otherwise;
      target = __umul64hi(fraction, total);
    }
    int chosen = 0;
    while (share_sums[chosen] <= target) target -= share_sums[chosen++];
    begin += chosen * share;
    end = min(end, begin + share);
  }
  const Count weight = begin + lane < end ? survivors.weight(row, begin + lane) : 0;
  const Count before = warp_sum_before(weight);
  if (warp == 0 && before <= target && target < before + weight) found = begin + lane;
  __syncthreads();  // found is there
  return found;
}

__global__ void __launch_bounds__(1024)
    argmax(const float* __restrict__ logits, int* out, int vocab_size) {
  const int best = position_of_largest(logits + (size_t)blockIdx.x * vocab_size, vocab_size);
  if (threadIdx.x == 0) out[blockIdx.x] = best;
}

// One block per multiprocessor is enough: for more of them the compiler would spill registers.
__global__ void __launch_bounds__(512, 1)
    sample(const float* __restrict__ logits, const float* temperatures, const int* top_ks,
           const float* top_ps, const float* min_ps, const int* seeds, const int* positions,
           int* out, int vocab_size) {
  const int i = blockIdx.x;
  const float* row_logits = logits + (size_t)i * vocab_size;
  int token = position_of_largest(row_logits, vocab_size);
  if (temperatures[i] != 0.0f) {
    const WeightedRow row = {row_logits, temperatures[i], row_logits[token] / temperatures[i]};
    const Survivors survivors = filter(row, vocab_size, top_ks[i], top_ps[i], min_ps[i]);
    const PhiloxWords random =
        philox({{(unsigned)positions[i], 0, 0, 0}}, seeds[2 * i], seeds[2 * i + 1]);
    const Count fraction = (Count)random.word[1] << 32 | random.word[0];
    token = draw(row, survivors, vocab_size, fraction, token);
  }
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
