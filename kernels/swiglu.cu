// SwiGLU (Shazeer, 2020):  out = gate / (1 + exp(-gate)) * up
//
//   gate_up  [num_tokens, 2 * size]  T, contiguous, gate first, vector-aligned
//   out      [num_tokens, size]      T, contiguous
//
//   grid    num_tokens x ceil(size / LANES / 256) blocks
//   block   256 threads; a thread owns one vector
//   memory  reads two elements and writes one for each of out; bandwidth-bound
//   needs   size % LANES == 0 (LANES is chosen so by ops/cuda_ops.py)
#include "common.cuh"

template <typename T, int LANES>
__global__ void swiglu(const T* gate_up, T* out, int size) {
  const int num_vecs = size / LANES;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= num_vecs) return;
  const auto* gate_row =
      reinterpret_cast<const Vec<T, LANES>*>(gate_up) + (size_t)blockIdx.x * 2 * num_vecs;
  const Vec<T, LANES> gate = gate_row[i], up = gate_row[num_vecs + i];
  Vec<T, LANES> result;
  for (int k = 0; k < LANES; ++k) result.lane[k] = T(silu(float(gate.lane[k])) * float(up.lane[k]));
  reinterpret_cast<Vec<T, LANES>*>(out)[(size_t)blockIdx.x * num_vecs + i] = result;
}
