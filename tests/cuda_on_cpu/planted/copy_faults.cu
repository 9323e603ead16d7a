// Blocks that copy in the background: right with FAULT = 0, wrong with any other. Four threads of
// a block use what another warp copied, twice over the same buffer.
//
//   x    [gridDim.x, 2, 256]  float; 64 threads a block
//   out  [gridDim.x, 2, 256]  float, each half reversed
#include <ptx.cuh>

enum Fault { kNone, kNoWait, kNoBarrierAfterTheWait, kNoBarrierBeforeTheCopy, kNotCommitted };

template <int FAULT>
__global__ void reverse_by_copies(const float* x, float* out) {
  __shared__ __align__(16) float tile[256];
  for (int half = 0; half < 2; ++half) {
    const float* from = x + (blockIdx.x * 2 + half) * 256;
    float* to = out + (blockIdx.x * 2 + half) * 256;
    copy_async(tile + 4 * threadIdx.x, from + 4 * threadIdx.x, true);
    if (FAULT != kNotCommitted) copy_async_commit();
    if (FAULT != kNoWait) copy_async_wait<0>();
    if (FAULT != kNoBarrierAfterTheWait) __syncthreads();
    for (int i = threadIdx.x; i < 256; i += 64) to[i] = tile[255 - i];
    if (FAULT != kNoBarrierBeforeTheCopy) __syncthreads();
  }
}
