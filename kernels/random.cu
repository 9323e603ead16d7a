// Normal values without a host:  out[i] = scale * z_i, z_i standard normal
// z of elements 4 j to 4 j + 3 comes from Philox4x32-10 with counter (j, 1), key = seed, by
// Box and Muller: A Note on the Generation of Random Normal Deviates (1958).
//
//   out   [count]  T, 16-byte aligned
//
//   grid    ceil(count / 1024) blocks
//   block   256 threads; a thread owns four neighbouring elements
//   memory  writes out once
//   needs   the launcher's grid
#include "common.cuh"
#include "philox.cuh"

// Two normal values from two words. The logarithm's argument is in (0, 1], in steps of 2^-24.
__device__ inline void box_muller(unsigned radius_word, unsigned angle_word, float* pair) {
  const float uniform = (float)((radius_word >> 8) + 1) * 0x1p-24f;
  const float angle = (float)(angle_word >> 8) * (6.283185307179586f * 0x1p-24f);
  const float radius = sqrtf(-2.0f * logf(uniform));
  pair[0] = radius * cosf(angle);
  pair[1] = radius * sinf(angle);
}

template <typename T>
__global__ void random_normal(T* out, long long count, int seed_low, int seed_high, float scale) {
  const long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const long long first = 4 * j;
  if (first >= count) return;
  const PhiloxWords random =
      philox({{(unsigned)j, (unsigned)(j >> 32), 1, 0}}, (unsigned)seed_low, (unsigned)seed_high);
  float normal[4];
  box_muller(random.word[0], random.word[1], normal);
  box_muller(random.word[2], random.word[3], normal + 2);
  Vec<T, 4> values;
  for (int k = 0; k < 4; ++k) values.lane[k] = T(scale * normal[k]);
  if (first + 4 <= count) {
    reinterpret_cast<Vec<T, 4>*>(out)[j] = values;
  } else {
    for (int k = 0; first + k < count; ++k) out[first + k] = values.lane[k];
  }
}
