// RMSNorm of a row, in the one order of sums and with the one rounding that all kernels share.
#pragma once

#include "common.cuh"

// A thread's part of the sum: float32 whatever T is, as half overflows past 256^2. The fused
// products are asked for, so that no compiler chooses otherwise in one of the kernels.
template <typename T, int LANES>
__device__ inline float sum_of_squares(Vec<T, LANES> vec) {
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < LANES; ++k) sum = fmaf(float(vec.lane[k]), float(vec.lane[k]), sum);
  return sum;
}

__device__ inline float inverse_rms(float sum, int size, float eps) {
  return 1.0f / sqrtf(sum / size + eps);
}

template <typename T, int LANES>
__device__ inline Vec<T, LANES> scaled(Vec<T, LANES> x, float inv_rms, Vec<T, LANES> weight) {
  Vec<T, LANES> result;
#pragma unroll
  for (int k = 0; k < LANES; ++k)
    result.lane[k] = T(float(x.lane[k]) * inv_rms * float(weight.lane[k]));
  return result;
}
