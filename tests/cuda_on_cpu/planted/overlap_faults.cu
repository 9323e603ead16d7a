// Kernels that are launched to overlap with the one before: right with FAULT = 0, wrong with any
// other.
//
//   x, out  [gridDim.x * blockDim.x]  float
#include <ptx.cuh>

enum Fault { kNone, kReadsTooEarly, kWritesTooEarly, kOneThreadDoesNotWait };

template <int FAULT>
__global__ void doubled_late(const float* x, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  allow_next();
  float value = FAULT == kReadsTooEarly ? x[i] : 0.0f;
  if (FAULT == kWritesTooEarly) out[i] = 1.0f;
  if (FAULT != kOneThreadDoesNotWait || threadIdx.x != 40) wait_for_previous();
  if (FAULT != kReadsTooEarly) value = x[i];
  out[i] = FAULT == kWritesTooEarly ? out[i] + 2.0f * value - 1.0f : 2.0f * value;
}
