// The reductions of kernels/common.cuh, each called again at once: nothing of the first call may
// disturb the second.
//
//   x    [blockDim.x]         V
//   out  [2, blockDim.x, 4]   V: sum, maximum, sum before, sum over `width` lanes; of x, of -3 x
#include "common.cuh"

template <typename V>
__global__ void __launch_bounds__(1024) reductions(const V* x, V* out, int width) {
  const V first = x[threadIdx.x], second = first * V(-3);
  const V sums[2] = {block_sum(first), block_sum(second)};
  const V largest[2] = {block_max(first), block_max(second)};
  const V before[2] = {block_sum_before(first), block_sum_before(second)};
  const V parts[2] = {warp_sum(first, width), warp_sum(second, width)};
  for (int call = 0; call < 2; ++call) {
    V* row = out + 4 * (call * blockDim.x + threadIdx.x);
    row[0] = sums[call], row[1] = largest[call], row[2] = before[call], row[3] = parts[call];
  }
}
