// Masked softmax of attention scores, for the unfused path:
//   out = exp(scores - max) / sum over the keys that the query sees, 0 elsewhere
//
//   scores  [num_heads, num_queries, row_size]  float32, contiguous; the first num_keys are used
//   out     [num_heads, num_queries, row_size]  T, contiguous; zero from num_keys on
//
//   grid    num_heads * num_queries blocks; a block owns a row. Query i stands at position
//           first_position + i and sees keys (position - window, position].
//   block   256 threads; thread t owns vectors of four t, t + 256, ...
//   memory  reads the visible scores three times (mostly from cache), writes out once;
//           bandwidth-bound
//   needs   row_size % 4 == 0, row_size >= num_keys > each position
#include "common.cuh"

template <typename T>
__global__ void softmax(const float* scores, T* out, int num_queries, int row_size,
                        int first_position, int window) {
  const auto* row = reinterpret_cast<const Vec<float>*>(scores + (size_t)blockIdx.x * row_size);
  auto* out_row = reinterpret_cast<Vec<T, 4>*>(out + (size_t)blockIdx.x * row_size);
  const int position = first_position + int(blockIdx.x % num_queries);
  const int begin = max(0, position - window + 1);
  const int begin_vec = begin / 4, end_vec = position / 4 + 1;

  float highest = -infinity();
  for (int i = begin_vec + threadIdx.x; i < end_vec; i += blockDim.x) {
    const Vec<float> v = row[i];
    for (int k = 0; k < 4; ++k) {
      const int key = i * 4 + k;
      if (key >= begin && key <= position) highest = fmaxf(highest, v.lane[k]);
    }
  }
  highest = block_max(highest);

  float sum = 0.0f;
  for (int i = begin_vec + threadIdx.x; i < end_vec; i += blockDim.x) {
    const Vec<float> v = row[i];
    for (int k = 0; k < 4; ++k) {
      const int key = i * 4 + k;
      if (key >= begin && key <= position) sum += expf(v.lane[k] - highest);
    }
  }
  const float inverse = 1.0f / block_sum(sum);

  for (int i = threadIdx.x; i < row_size / 4; i += blockDim.x) {
    Vec<T, 4> result = {};
    if (i >= begin_vec && i < end_vec) {
      const Vec<float> v = row[i];
      for (int k = 0; k < 4; ++k) {
        const int key = i * 4 + k;
        const bool visible = key >= begin && key <= position;
        result.lane[k] = T(visible ? expf(v.lane[k] - highest) * inverse : 0.0f);
      }
    }
    out_row[i] = result;
  }
}
