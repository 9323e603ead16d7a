// A block's static tile, overrun by FAULT elements through a pointer that hides its size.
//
//   x, out  [size]  float
//   grid    ceil(size / 64) blocks of 64 threads

__device__ __noinline__ void put(float* tile, int i, float value) { tile[i] = value; }

template <int FAULT>
__global__ void overrun_static_shared(const float* x, float* out, int size) {
  __shared__ float tile[64];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  put(tile, threadIdx.x + FAULT, i < size ? x[i] : 0.0f);
  __syncthreads();
  if (i < size) out[i] = tile[threadIdx.x];
}
