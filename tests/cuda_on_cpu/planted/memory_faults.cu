// Kernels that are right with FAULT = 0 and touch memory that is not theirs with FAULT = 1.
//
//   x, out  [size]  float
//   grid    ceil(size / blockDim.x) blocks

template <int FAULT>
__global__ void read_past_the_end(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = i + 1 < size + FAULT ? x[i + 1] : 0.0f;
}

template <int FAULT>
__global__ void write_past_the_end(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size + FAULT) out[i] = x[i < size ? i : 0];
}

template <int FAULT>
__global__ void write_before_the_start(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i - FAULT] = x[i];
}

// No bound at all: the launch must be exact. FAULT plays no part; a wrong grid is the fault.
template <int FAULT>
__global__ void copy_unbounded(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = x[i];
}

// No fault: a block of more threads is one.
template <int FAULT>
__global__ void __launch_bounds__(64) copy_bounded(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = x[i];
}

template <int FAULT>
__global__ void load_vectors(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (4 * i + 4 + FAULT > size) return;
  const float4 v = *reinterpret_cast<const float4*>(x + 4 * i + FAULT);
  out[i] = v.x + v.y + v.z + v.w;
}

// Each block writes one element more than its dynamic shared memory has.
template <int FAULT>
__global__ void overrun_dynamic_shared(const float* x, float* out, int size) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* tile = reinterpret_cast<float*>(shared);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x + FAULT] = i < size ? x[i] : 0.0f;
  __syncthreads();
  if (i < size) out[i] = tile[threadIdx.x + FAULT];
}

// No fault: a static tile of 256 bytes beside dynamic shared memory.
template <int FAULT>
__global__ void both_kinds_of_shared(const float* x, float* out, int size) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float tile[64];
  float* dynamic = reinterpret_cast<float*>(shared);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  dynamic[threadIdx.x] = tile[threadIdx.x] = i < size ? x[i] : 0.0f;
  __syncthreads();
  if (i < size) out[i] = tile[63 - threadIdx.x] + dynamic[63 - threadIdx.x];
}
