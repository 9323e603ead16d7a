// The draw of kernels/draw.cuh with random bits that are given, so that it meets its borders.
//
//   logits     [size]       float32
//   fractions  [gridDim.x]  unsigned long long
//   out        [gridDim.x]  int: -1 where all weights are 0
#include "draw.cuh"

__global__ void draw_at(const float* logits, const unsigned long long* fractions, int* out,
                        int size) {
  const WeightedRow row = {logits, 1.0f, 0.0f};
  const int token = draw(row, {0, 0}, size, fractions[blockIdx.x]);
  if (threadIdx.x == 0) out[blockIdx.x] = token;
}

__global__ void weights(const float* x, Count* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = weight_of(x[i]);
}
