// Kernels that are right with FAULT = 0 and let threads miss a barrier with FAULT = 1.
//
//   x, out  [gridDim.x * blockDim.x]  float

template <int FAULT>
__global__ void skipped_by_some(const float* x, float* out) {
  __shared__ float tile[1024];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = x[i];
  if (FAULT == 0 || threadIdx.x < 40) __syncthreads();
  out[i] = tile[threadIdx.x ^ 1];
}

template <int FAULT>
__global__ void left_early(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (FAULT == 1 && threadIdx.x == 5) return;
  __syncthreads();
  out[i] = x[i];
}

template <int FAULT>
__global__ void shuffled_by_half_a_warp(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned mask = FAULT == 0 ? 0x0000ffffu : 0xffffffffu;
  float value = x[i];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(mask, value, 8);
  out[i] = value;
}

template <int FAULT>
__global__ void read_from_a_lane_outside_the_mask(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float value = x[i];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(0x0000ffffu, value, FAULT == 0 ? 8 : 16);
  out[i] = value;
}

template <int FAULT>
__global__ void two_barriers_for_one(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (FAULT == 1 && threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[i] = x[i];
}
