// Rows of a table:  out[i] = table[rows[i]]
//
//   table   [table_rows, width]  T, contiguous, vector-aligned
//   rows    [num_rows]           int32, each below table_rows
//   out     [num_rows, width]    T, contiguous
//
//   grid    num_rows blocks; block b owns row b of out
//   block   up to 256 threads; thread t owns vectors t, t + blockDim.x, ...
//   memory  reads and writes each element once; bandwidth-bound
//   needs   width % LANES == 0 (LANES is chosen so by ops/cuda_ops.py)
#include "common.cuh"

template <typename T, int LANES>
__global__ void gather(const T* table, const int* rows, T* out, int width) {
  const int num_vecs = width / LANES;
  const auto* source =
      reinterpret_cast<const Vec<T, LANES>*>(table) + (size_t)rows[blockIdx.x] * num_vecs;
  auto* target = reinterpret_cast<Vec<T, LANES>*>(out) + (size_t)blockIdx.x * num_vecs;
  for (int i = threadIdx.x; i < num_vecs; i += blockDim.x) target[i] = source[i];
}
