// RMSNorm over the last axis:  out = x / sqrt(mean(x^2) + eps) * weight
//
// rms_norm: rows of hidden_size.
//
//   x, out  [num_tokens, hidden_size]  T, contiguous, vector-aligned
//   weight  [hidden_size]              T
//
//   grid    num_tokens blocks; block b owns row b
//   block   32 to 512 threads by hidden_size alone, so that the order of the sum is the row's own
//           affair; thread t owns vectors t, t + blockDim.x, ...
//   memory  reads x twice (the second time from cache) and weight, writes out once;
//           bandwidth-bound at about 1 flop per byte
//   needs   hidden_size % LANES == 0 (LANES is chosen so by ops/cuda_ops.py)
//
// head_norm: every head of a token, in place.
//
//   x       [num_tokens, num_heads, head_dim]  T; heads contiguous, tokens token_stride apart
//   weight  [head_dim]                         T
//
//   grid    ceil(num_tokens * num_heads / (128 / width)) blocks
//   block   128 threads; width neighbouring lanes own a head
//   memory  reads x twice (the second time from cache), writes it once; bandwidth-bound
//   needs   head_dim % LANES == 0, token_stride % LANES == 0, width a power of two up to 32
#include "norm.cuh"

template <typename T, int LANES>
__global__ void __launch_bounds__(512)
    rms_norm(const T* x, const T* weight, T* out, int hidden_size, float eps) {
  const int num_vecs = hidden_size / LANES;
  const size_t row = (size_t)blockIdx.x * num_vecs;
  const auto* x_row = reinterpret_cast<const Vec<T, LANES>*>(x) + row;
  const auto* weight_vec = reinterpret_cast<const Vec<T, LANES>*>(weight);
  auto* out_row = reinterpret_cast<Vec<T, LANES>*>(out) + row;

  float sum = 0.0f;
  for (int i = threadIdx.x; i < num_vecs; i += blockDim.x) sum += sum_of_squares(x_row[i]);
  const float inv_rms = inverse_rms(block_sum(sum), hidden_size, eps);
  for (int i = threadIdx.x; i < num_vecs; i += blockDim.x)
    out_row[i] = scaled(x_row[i], inv_rms, weight_vec[i]);
}

template <typename T, int LANES>
__global__ void head_norm(T* x, const T* weight, int num_tokens, int num_heads, int head_dim,
                          long long token_stride, float eps, int width) {
  const int num_vecs = head_dim / LANES;
  const int lane = threadIdx.x % width;
  const long long head = (long long)blockIdx.x * (blockDim.x / width) + threadIdx.x / width;
  // Lanes past the last head stay for the shuffles, with nothing to read.
  const int owned = head < (long long)num_tokens * num_heads ? num_vecs : 0;
  auto* x_row = reinterpret_cast<Vec<T, LANES>*>(x + head / num_heads * token_stride) +
                head % num_heads * num_vecs;
  const auto* weight_vec = reinterpret_cast<const Vec<T, LANES>*>(weight);

  float sum = 0.0f;
  for (int i = lane; i < owned; i += width) sum += sum_of_squares(x_row[i]);
  const float inv_rms = inverse_rms(warp_sum(sum, width), head_dim, eps);
  for (int i = lane; i < owned; i += width) x_row[i] = scaled(x_row[i], inv_rms, weight_vec[i]);
}
