// What every kernel shares: vectors of up to 16 bytes, and reductions over a warp or a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;

// LANES elements that are loaded and stored at once; a whole Vec<T> is 16 bytes. Addresses must
// be multiples of its size.
template <typename T, int LANES = 16 / sizeof(T)>
struct alignas(sizeof(T) * LANES) Vec {
  static constexpr int kLanes = LANES;
  T lane[LANES];
};

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

// Sum over each `width` neighbouring lanes (a power of two), returned to every lane.
template <typename V>
__device__ inline V warp_sum(V value, int width = kWarpSize) {
  for (int offset = width / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

// Maximum over the same lanes.
template <typename V>
__device__ inline V warp_max(V value, int width = kWarpSize) {
  for (int offset = width / 2; offset > 0; offset /= 2)
    value = max(value, __shfl_xor_sync(kFullMask, value, offset));
  return value;
}

// Sum over the block, returned to every thread. blockDim.x: a multiple of 32, at most 1024.
template <typename V>
__device__ inline V block_sum(V value) {
  __shared__ V partial[kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  value = warp_sum(value);
  __syncthreads();  // a second call must not overwrite partials still being read
  if (lane == 0) partial[warp] = value;
  __syncthreads();  // every warp's partial is there
  return warp_sum(lane < blockDim.x / kWarpSize ? partial[lane] : V(0));
}

// Maximum over the block, returned to every thread. blockDim.x: a multiple of 32, at most 1024.
template <typename V>
__device__ inline V block_max(V value) {
  __shared__ V partial[kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  value = warp_max(value);
  __syncthreads();  // a second call must not overwrite partials still being read
  if (lane == 0) partial[warp] = value;
  __syncthreads();  // every warp's partial is there
  return warp_max(partial[lane < blockDim.x / kWarpSize ? lane : 0]);
}

// Sum of the values of lower lanes; a whole warp takes part.
template <typename V>
__device__ inline V warp_sum_before(V value) {
  const int lane = threadIdx.x % kWarpSize;
  V sum = value;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const V lower = __shfl_up_sync(kFullMask, sum, offset);
    if (lane >= offset) sum += lower;
  }
  return sum - value;
}

// Sum of the values of lower threads of the block, of an integer type.
template <typename V>
__device__ inline V block_sum_before(V value) {
  __shared__ V partial[kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const V before_in_warp = warp_sum_before(value);
  __syncthreads();  // a second call must not overwrite partials still being read
  if (lane == kWarpSize - 1) partial[warp] = before_in_warp + value;
  __syncthreads();  // every warp's partial is there
  const V before_warp = warp_sum_before(lane < blockDim.x / kWarpSize ? partial[lane] : V(0));
  return before_in_warp + __shfl_sync(kFullMask, before_warp, warp);
}
