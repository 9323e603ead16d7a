// Every warp and block primitive, each thread writing what it got.

enum Kind { kIndex, kUp, kDown, kXor };

//   x, out  [32]  T; one warp
template <typename T, int KIND>
__global__ void shuffle(const T* x, T* out, int amount, int width) {
  const T value = x[threadIdx.x];
  T got = value;
  if (KIND == kIndex) got = __shfl_sync(0xffffffffu, value, amount, width);
  if (KIND == kUp) got = __shfl_up_sync(0xffffffffu, value, amount, width);
  if (KIND == kDown) got = __shfl_down_sync(0xffffffffu, value, amount, width);
  if (KIND == kXor) got = __shfl_xor_sync(0xffffffffu, value, amount, width);
  out[threadIdx.x] = got;
}

//   x    [num_threads]     int
//   out  [num_threads, 12] unsigned
__global__ void votes(const int* x, unsigned* out) {
  const int thread = threadIdx.x + blockDim.x * threadIdx.y;
  const int value = x[thread], predicate = value > 0;
  unsigned* row = out + 12 * thread;
  row[0] = __ballot_sync(0xffffffffu, predicate);
  row[1] = __any_sync(0xffffffffu, predicate);
  row[2] = __all_sync(0xffffffffu, predicate);
  row[3] = __reduce_add_sync(0xffffffffu, value);
  row[4] = __reduce_min_sync(0xffffffffu, value);
  row[5] = __reduce_max_sync(0xffffffffu, value);
  row[6] = __syncthreads_count(predicate);
  row[7] = __syncthreads_or(predicate);
  row[8] = __syncthreads_and(predicate);
  row[9] = __match_any_sync(0xffffffffu, value);
  row[10] = __reduce_or_sync(0xffffffffu, unsigned(value));
  row[11] = __reduce_xor_sync(0xffffffffu, unsigned(value));
}

// Both halves of a warp meet among themselves, the lower half more often, then all together.
//   x, out  [32]  int
__global__ void halves(const int* x, int* out) {
  const int lane = threadIdx.x;
  int value = x[lane];
  if (lane < 16) {
    for (int offset = 8; offset > 0; offset /= 2)
      value += __shfl_xor_sync(0x0000ffffu, value, offset);
  } else {
    value -= __shfl_xor_sync(0xffff0000u, value, 1);
  }
  value += __shfl_xor_sync(0xffffffffu, value, 16);
  __syncwarp();
  out[lane] = value;
}

//   x           [num_blocks * blockDim.x]  unsigned
//   bins        [8]   unsigned, of the lowest bits of x
//   extremes    [2]   unsigned, smallest and largest x
//   sums        [2]   unsigned long long: the sum of x; the sum by compare-and-swap
//   total       [1]   float
__global__ void atomics(const unsigned* x, unsigned* bins, unsigned* extremes,
                        unsigned long long* sums, float* total) {
  const unsigned value = x[blockIdx.x * blockDim.x + threadIdx.x];
  atomicAdd(&bins[value % 8], 1);
  atomicMin(&extremes[0], value);
  atomicMax(&extremes[1], value);
  atomicAdd(&sums[0], value);
  unsigned long long seen = sums[1], expected;
  do {
    expected = seen;
    seen = atomicCAS(&sums[1], expected, expected + value);
  } while (seen != expected);
  atomicAdd(total, float(value % 8));
}

// Where each thread thinks it stands.
//   out  [num_blocks, num_threads, 12]  unsigned
__global__ void places(unsigned* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned* row = out + 12 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  row[0] = threadIdx.x, row[1] = threadIdx.y, row[2] = threadIdx.z;
  row[3] = blockIdx.x, row[4] = blockIdx.y, row[5] = blockIdx.z;
  row[6] = blockDim.x, row[7] = blockDim.y, row[8] = blockDim.z;
  row[9] = gridDim.x, row[10] = gridDim.y, row[11] = gridDim.z;
}
