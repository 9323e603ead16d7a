// Rotary position embedding (Su et al., 2021) in the half-split layout of Hugging Face.
//
// rope_angles: cos and sin of  positions[t] * inv_freq[rope_rows[t]], times scaling.
//
//   inv_freq   [table_rows, half_dim]        float32
//   rope_rows  [num_tokens]                  int32
//   positions  [num_tokens]                  int32
//   cos_sin    [num_tokens, 2 * half_dim]    float32, cos in the first half
//
//   grid    num_tokens blocks
//   block   up to 128 threads; thread t owns angles t, t + blockDim.x, ...
//   memory  negligible; one launch serves all layers of a step
//   needs   nothing
//
// rope: (x[i], x[i + half_dim]) turned by angle i, for every head, in place.
//
//   x          [num_tokens, num_heads, 2 * half_dim]  T; heads contiguous, tokens token_stride apart
//   cos_sin    [num_tokens, 2 * half_dim]             float32
//
//   grid    num_tokens blocks
//   block   up to 256 threads; thread t owns pairs of vectors t, t + blockDim.x, ...
//   memory  reads and writes x once, cos_sin once per head (from cache); bandwidth-bound
//   needs   half_dim % LANES == 0, token_stride % LANES == 0
#include "rope.cuh"

#include "common.cuh"

__global__ void rope_angles(const float* inv_freq, const int* rope_rows, const int* positions,
                            float* cos_sin, int half_dim, float scaling) {
  constexpr double kQuarterTurnsPerRadian = 0.63661977236758134308;
  const size_t token = blockIdx.x;
  const float* frequencies = inv_freq + (size_t)rope_rows[token] * half_dim;
  float* cos_row = cos_sin + token * 2 * half_dim;
  float* sin_row = cos_row + half_dim;
  for (int i = threadIdx.x; i < half_dim; i += blockDim.x) {
    // The angle is the float32 product, as the models were trained with. Reduced in double it
    // keeps its digits at any position, and sincospif has no slow path for large arguments.
    const float angle = float(positions[token]) * frequencies[i];
    const double quarter_turns = double(angle) * kQuarterTurnsPerRadian;
    const double whole = rint(quarter_turns);
    float sine, cosine;
    sincospif(0.5f * float(quarter_turns - whole), &sine, &cosine);
    const int quadrant = int(whole) & 3;
    const float x = quadrant & 1 ? -sine : cosine;
    const float y = quadrant & 1 ? cosine : sine;
    cos_row[i] = (quadrant & 2 ? -x : x) * scaling;
    sin_row[i] = (quadrant & 2 ? -y : y) * scaling;
  }
}

template <typename T, int LANES>
__global__ void rope(T* x, const float* cos_sin, int num_heads, int half_dim,
                     long long token_stride) {
  const int vecs_per_half = half_dim / LANES;
  const size_t token = blockIdx.x;
  auto* x_row = reinterpret_cast<Vec<T, LANES>*>(x + token * token_stride);
  const float* cos_row = cos_sin + token * 2 * half_dim;
  const float* sin_row = cos_row + half_dim;
  for (int i = threadIdx.x; i < num_heads * vecs_per_half; i += blockDim.x) {
    const int head = i / vecs_per_half;
    const int vec = i % vecs_per_half;
    auto* first = x_row + (size_t)head * 2 * vecs_per_half + vec;
    auto* second = first + vecs_per_half;
    Vec<T, LANES> a = *first, b = *second;
    for (int k = 0; k < LANES; ++k) {
      const float cos_value = cos_row[vec * LANES + k], sin_value = sin_row[vec * LANES + k];
      float x_first = float(a.lane[k]), x_second = float(b.lane[k]);
      turn(x_first, x_second, cos_value, sin_value);
      a.lane[k] = T(x_first);
      b.lane[k] = T(x_second);
    }
    *first = a;
    *second = b;
  }
}
