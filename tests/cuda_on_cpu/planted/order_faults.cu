// Kernels that are right with FAULT = 0 and lean on the order of threads with FAULT = 1.
//
//   x, out  [gridDim.x * blockDim.x]  float

// Each block's elements in reversed order.
template <int FAULT>
__global__ void reverse_block(const float* x, float* out) {
  __shared__ float tile[1024];
  const int row = blockIdx.x * blockDim.x;
  tile[threadIdx.x] = x[row + threadIdx.x];
  if (FAULT == 0) __syncthreads();
  out[row + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// Prefix sum inside a warp through shared memory, which leans on lockstep when it is faulty.
template <int FAULT>
__global__ void prefix_sum_in_warp(const float* x, float* out) {
  __shared__ float tile[1024];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = x[i];
  __syncwarp();
  for (int offset = 1; offset < 32; offset *= 2) {
    const float lower = threadIdx.x % 32 >= offset ? tile[threadIdx.x - offset] : 0.0f;
    if (FAULT == 0) __syncwarp();
    tile[threadIdx.x] += lower;
    if (FAULT == 0) __syncwarp();
  }
  out[i] = tile[threadIdx.x];
}

// Sums all blocks into out[0]; when faulty each block reads what an earlier one left behind.
template <int FAULT>
__global__ void sum_blocks(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (FAULT == 0) {
    atomicAdd(&out[0], x[i]);
  } else {
    out[i] = x[i] + (i >= blockDim.x ? out[i - blockDim.x] : 0.0f);
  }
}
