// A bias for the rows of a product, before the product is added to them (beta = 1).
//
// fill_bias:  out[row] = bias          add_bias:  out[row] = out[row] + bias
//
//   out     [num_rows, size]  T, contiguous, vector-aligned
//   bias    [size]            T
//
//   grid    num_rows x ceil(size / LANES / 256) blocks
//   block   256 threads; a thread owns one vector
//   memory  reads bias from cache, writes (and for add_bias reads) out once; bandwidth-bound
//   needs   size % LANES == 0 (LANES is chosen so by ops/cuda_linear.py)
#include "common.cuh"

template <typename T, int LANES>
__global__ void fill_bias(const T* bias, T* out, int size) {
  const int num_vecs = size / LANES;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= num_vecs) return;
  auto* out_row = reinterpret_cast<Vec<T, LANES>*>(out) + (size_t)blockIdx.x * num_vecs;
  out_row[i] = reinterpret_cast<const Vec<T, LANES>*>(bias)[i];
}

template <typename T, int LANES>
__global__ void add_bias(const T* bias, T* out, int size) {
  const int num_vecs = size / LANES;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= num_vecs) return;
  auto* out_row = reinterpret_cast<Vec<T, LANES>*>(out) + (size_t)blockIdx.x * num_vecs;
  const Vec<T, LANES> added = reinterpret_cast<const Vec<T, LANES>*>(bias)[i];
  Vec<T, LANES> result = out_row[i];
  for (int k = 0; k < LANES; ++k) result.lane[k] = T(float(result.lane[k]) + float(added.lane[k]));
  out_row[i] = result;
}
