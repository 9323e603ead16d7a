// What products of a weight with few rows of activations share, whatever the weight is held in.
#pragma once

#include "norm.cuh"

constexpr int kMaxNormThreads = 512;  // of rms_norm.cu, whose order of sums is kept

// What becomes of a product: see matvec.cu.
enum Epilogue { kStore, kAdd, kSwiglu, kFloat32 };

// Puts num_rows normed rows of x, rounded to T, into shared memory; behind them norm_weight.
template <typename T, int LANES, int ROWS>
__device__ inline void stage_normed(const T* x, const T* norm_weight, Vec<T, LANES>* staged,
                                    int num_rows, int in_size, float eps) {
  constexpr int kBatch = 4;
  __shared__ float partial[ROWS][kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int num_vecs = in_size / LANES;
  const auto* x_vecs = reinterpret_cast<const Vec<T, LANES>*>(x);
  const auto* norm_vecs = reinterpret_cast<const Vec<T, LANES>*>(norm_weight);
  const int weight_at = num_rows * num_vecs, end = weight_at + num_vecs;
  for (int first = threadIdx.x; first < end; first += kBatch * blockDim.x) {
    Vec<T, LANES> batch[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = first + k * int(blockDim.x);
      if (i < end) batch[k] = i < weight_at ? x_vecs[i] : norm_vecs[i - weight_at];
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = first + k * int(blockDim.x);
      if (i < end) staged[i] = batch[k];
    }
  }
  __syncthreads();  // x and norm_weight are there

  // As if by the threads of rms_norm.cu: its warps are spread over the warps of this block.
  const int norm_warps = min((num_vecs + kWarpSize - 1) / kWarpSize, kMaxNormThreads / kWarpSize);
  for (int w = warp; w < norm_warps; w += blockDim.x / kWarpSize) {
    float sum[ROWS] = {};
    for (int i = w * kWarpSize + lane; i < num_vecs; i += norm_warps * kWarpSize) {
#pragma unroll
      for (int m = 0; m < ROWS; ++m)
        sum[m] += sum_of_squares(staged[min(m, num_rows - 1) * num_vecs + i]);
    }
#pragma unroll
    for (int m = 0; m < ROWS; ++m) {
      sum[m] = warp_sum(sum[m]);
      if (lane == 0) partial[m][w] = sum[m];
    }
  }
  __syncthreads();  // every partial sum is there

  float inv_rms[ROWS];
#pragma unroll
  for (int m = 0; m < ROWS; ++m)
    inv_rms[m] = inverse_rms(warp_sum(lane < norm_warps ? partial[m][lane] : 0.0f), in_size, eps);
  for (int i = threadIdx.x; i < num_vecs; i += blockDim.x) {
    const Vec<T, LANES> scale = staged[weight_at + i];
#pragma unroll
    for (int m = 0; m < ROWS; ++m)
      if (m < num_rows)
        staged[m * num_vecs + i] = scaled(staged[m * num_vecs + i], inv_rms[m], scale);
  }
  __syncthreads();  // every normed vector is there
}
