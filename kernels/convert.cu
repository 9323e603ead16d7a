// Weights from a file's dtype to the model's:  target[i] = source[i], rounded to nearest even
//
//   source     [size]  FROM, vector-aligned
//   target     [size]  TO, vector-aligned
//   overflow   [1]     int32, set to 1 if a finite value became infinite
//
//   grid    ceil(size / LANES / 256) blocks
//   block   256 threads; a thread owns a vector, and the last one what is left over
//   memory  reads and writes each element once; bandwidth-bound
//   needs   source and target aligned for LANES elements, up to 16 bytes
#include "common.cuh"

template <typename FROM, typename TO>
__device__ inline TO converted(FROM value, bool* overflows) {
  const float wide = float(value);
  const TO result = TO(wide);
  *overflows |= isinf(float(result)) && !isinf(wide);
  return result;
}

// Vectors of 32 bytes are two of 16 to the memory.
template <typename T, int LANES>
struct alignas(sizeof(T) * LANES < 16 ? sizeof(T) * LANES : 16) Pack {
  T lane[LANES];
};

template <typename FROM, typename TO, int LANES>
__global__ void convert(const FROM* source, TO* target, int* overflow, long long size) {
  const long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * LANES;
  bool overflows = false;
  if (i + LANES <= size) {
    const auto from = *reinterpret_cast<const Pack<FROM, LANES>*>(source + i);
    Pack<TO, LANES> to;
#pragma unroll
    for (int k = 0; k < LANES; ++k) to.lane[k] = converted<FROM, TO>(from.lane[k], &overflows);
    *reinterpret_cast<Pack<TO, LANES>*>(target + i) = to;
  } else {
    for (long long k = i; k < size; ++k) target[k] = converted<FROM, TO>(source[k], &overflows);
  }
  if (overflows) *overflow = 1;  // whoever writes it, writes the same
}
