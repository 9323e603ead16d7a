// Reads an array once and adds up its words, to see how fast this device reads:
// out[b] = sum of the words that block b read, modulo 2^32
//
//   data  [num_vecs * 4]  uint32, 16-byte aligned
//   out   [num_blocks]    uint32
//
//   grid    as many blocks as fill the device; they walk over the array together
//   block   a multiple of 32 threads, at most 512
//   memory  reads data once, 16 bytes a thread, eight loads on their way before the first is used
//   needs   data much larger than the last cache, or it is the cache that is measured
#include "common.cuh"

constexpr int kInFlight = 8;

__global__ void __launch_bounds__(512)
    read_sum(const unsigned* __restrict__ data, unsigned* out, long long num_vecs) {
  const auto* vecs = reinterpret_cast<const Vec<unsigned>*>(data);
  const long long stride = (long long)gridDim.x * blockDim.x;
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  unsigned sum = 0;
  for (; i + (kInFlight - 1) * stride < num_vecs; i += kInFlight * stride) {
    Vec<unsigned> loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) loaded[k] = vecs[i + k * stride];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k)
      for (unsigned word : loaded[k].lane) sum += word;
  }
  for (; i < num_vecs; i += stride) {
    const Vec<unsigned> last = vecs[i];
    for (unsigned word : last.lane) sum += word;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
