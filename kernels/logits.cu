// Logits before and after the draw.
//
// copy_logits: out = logits.
//
//   logits, out  [count]  float32
//
//   grid    up to 1024 blocks
//   block   256 threads; a thread owns every (grid * 256)-th element
//   memory  reads and writes each element once; bandwidth-bound
//   needs   nothing
//
// edit_logits: penalties and biases, from logits to their copy. An edit of a logit l:
//   l / repetition if l > 0 else l * repetition (where seen); minus frequency * count; minus
//   presence (where count > 0); plus bias.
//
//   logits, edited                  [num_rows, vocab_size]  float32, contiguous
//   rows, token_ids, counts, seen   [num_edits]             int32, (row, token_id) at most once
//   biases                          [num_edits]             float32
//   penalties                       [num_rows, 3]           float32: repetition, presence, frequency
//
//   grid    ceil(num_edits / 128) blocks
//   block   128 threads; a thread owns an edit
//   memory  negligible
//   needs   nothing
//
// mask_logits: a copy in which a row with a mask keeps only the tokens whose bit is set: token t is
// bit t % 32 of word t / 32. What it keeps is held within [-1e30, 1e30], so that an allowed token is
// drawn even where all of them were banned before; the others are -inf.
//
//   logits, masked  [num_rows, vocab_size]               float32, contiguous
//   mask_of         [num_rows]                           int32, a row of words, or -1 for no mask
//   words           [num_masks, ceil(vocab_size / 32)]   int32, each row with a bit that is set
//
//   grid    (num_rows, ceil(vocab_size / 256)) blocks
//   block   256 threads; a thread owns a logit, a warp reads one word
//   memory  reads and writes each logit once; bandwidth-bound
//   needs   nothing
//
// logprobs: log(softmax(logits)) of one token and of the num_top most likely ones, by falling
// logit, then by rising id.
//
//   logits          [num_rows, vocab_size]  float32, contiguous
//   token_ids       [num_rows]              int32
//   token_logprobs  [num_rows]              float32
//   top_ids         [num_rows, num_top]     int32
//   top_logprobs    [num_rows, num_top]     float32
//
//   grid    num_rows blocks; a block owns a row
//   block   a multiple of 32 threads, at least 64
//   memory  reads logits twice, with a top once more (from cache), with very many ties eight times
//   needs   num_top <= min(64, vocab_size)
#include "select.cuh"

constexpr int kMaxListed = 1024;
constexpr float kLargestKept = 1e30f;

__global__ void copy_logits(const float* logits, float* out, long long count) {
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
    out[i] = logits[i];
}

__global__ void edit_logits(const float* logits, float* edited, const int* rows,
                            const int* token_ids, const int* counts, const int* seen,
                            const float* biases, const float* penalties, int num_edits,
                            int vocab_size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_edits) return;
  const float* penalty = penalties + (size_t)rows[i] * 3;
  const float repetition = penalty[0], presence = penalty[1], frequency = penalty[2];
  const size_t at = (size_t)rows[i] * vocab_size + token_ids[i];
  float value = logits[at];
  if (seen[i]) value = value > 0.0f ? value / repetition : value * repetition;
  // Rounded product by product, as NumPy does: a fused multiply-add could change the draw.
  value = __fsub_rn(value, __fmul_rn(frequency, (float)counts[i]));
  if (counts[i] > 0) value -= presence;
  edited[at] = value + biases[i];
}

__global__ void mask_logits(const float* __restrict__ logits, float* masked, const int* mask_of,
                            const int* words, int vocab_size) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= vocab_size) return;
  const int mask = mask_of[blockIdx.x];
  const size_t at = (size_t)blockIdx.x * vocab_size + i;
  float value = logits[at];
  if (mask >= 0) {
    const int num_words = (vocab_size + 31) / 32;
    const unsigned word = words[(size_t)mask * num_words + i / 32];
    const bool allowed = word >> (i % 32) & 1;
    // fmaxf and fminf prefer the number to a NaN.
    value = allowed ? fminf(fmaxf(value, -kLargestKept), kLargestKept) : -infinity();
  }
  masked[at] = value;
}

// Collects the positions of the num_top largest of a row, in no order.
__device__ inline void find_top(const float* row, int size, int num_top, Count* bins, int* top) {
  __shared__ int num_found;
  Count open = num_top;
  const unsigned border = select_largest(bins, size, &open, [&](int i, unsigned* bits) -> Count {
    *bits = ordered_bits(row[i]);
    return 1;
  });
  if (threadIdx.x == 0) num_found = 0;
  __syncthreads();  // num_found is set
  for (int i = threadIdx.x; i < size; i += blockDim.x)
    if (ordered_bits(row[i]) > border) top[atomicAdd(&num_found, 1)] = i;
  // `open` places are left for those on the border: the lowest positions get them.
  const int num_above = num_top - (int)open;
  int num_tied = 0;
  for (int base = 0; base < size && num_tied < (int)open; base += blockDim.x) {
    const int i = base + threadIdx.x;
    const int tied = i < size && ordered_bits(row[i]) == border;
    const int num_here = __syncthreads_count(tied);
    if (num_here == 0) continue;
    const int place = num_tied + block_sum_before(tied);
    if (tied && place < (int)open) top[num_above + place] = i;
    num_tied += num_here;
  }
  __syncthreads();  // top is complete
}

// Collects the positions of all logits that may be among the num_top largest, in no order: those
// not below the num_top-th of the threads' own largest. All threads get their number; of more
// than kMaxListed it says no more than that. own_largest: of the logits threadIdx.x,
// threadIdx.x + blockDim.x, ...
__device__ inline int list_top(const float* row, int size, int num_top, unsigned own_largest,
                               Count* bins, int* listed) {
  __shared__ int num_listed;
  Count open = num_top;
  const int num_threads = min((int)blockDim.x, size);
  const unsigned border = select_largest(bins, num_threads, &open, [&](int, unsigned* bits) {
    *bits = own_largest;
    return (Count)1;
  });
  if (threadIdx.x == 0) num_listed = 0;
  __syncthreads();  // num_listed is set
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    if (ordered_bits(row[i]) < border) continue;
    const int place = atomicAdd(&num_listed, 1);
    if (place < kMaxListed) listed[place] = i;
  }
  __syncthreads();  // listed is complete
  return num_listed;
}

__global__ void __launch_bounds__(1024)
    logprobs(const float* __restrict__ logits, const int* token_ids, float* token_logprobs,
             int* top_ids, float* top_logprobs, int vocab_size, int num_top) {
  __shared__ Count bins[kNumBins];
  __shared__ int listed[kMaxListed];
  __shared__ unsigned listed_bits[kMaxListed];
  const float* row = logits + (size_t)blockIdx.x * vocab_size;
  unsigned own_largest = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < vocab_size; i += blockDim.x)
    own_largest = max(own_largest, ordered_bits(row[i]));
  const float largest = from_ordered_bits(block_max(own_largest));
  float sum = 0.0f;
  for (int i = threadIdx.x; i < vocab_size; i += blockDim.x) sum += expf(row[i] - largest);
  const float log_sum = logf(block_sum(sum)) + largest;
  if (threadIdx.x == 0) token_logprobs[blockIdx.x] = row[token_ids[blockIdx.x]] - log_sum;
  if (num_top == 0) return;

  int count = list_top(row, vocab_size, num_top, own_largest, bins, listed);
  if (count > kMaxListed) {
    find_top(row, vocab_size, num_top, bins, listed);
    count = num_top;
  }
  for (int n = threadIdx.x; n < count; n += blockDim.x)
    listed_bits[n] = ordered_bits(row[listed[n]]);
  __syncthreads();  // all bits are there
  for (int n = threadIdx.x; n < count; n += blockDim.x) {
    const int own = listed[n];
    const unsigned own_bits = listed_bits[n];
    int rank = 0;
    for (int k = 0; k < count; ++k)
      rank += listed_bits[k] > own_bits || (listed_bits[k] == own_bits && listed[k] < own);
    if (rank >= num_top) continue;
    const size_t at = (size_t)blockIdx.x * num_top + rank;
    top_ids[at] = own;
    top_logprobs[at] = row[own] - log_sum;
  }
}
