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
//   memory  reads logits once for the largest, and from cache twice for the draw and three to six
//           times more for top_k and for top_p each; 17 KiB of shared memory
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
#include "draw.cuh"

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

__global__ void random_words(const int* counters, const int* keys, int* out, int num_rows) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_rows) return;
  PhiloxWords counter;
  for (int k = 0; k < 4; ++k) counter.word[k] = counters[4 * i + k];
  const PhiloxWords words = philox(counter, keys[2 * i], keys[2 * i + 1]);
  for (int k = 0; k < 4; ++k) out[4 * i + k] = (int)words.word[k];
}
