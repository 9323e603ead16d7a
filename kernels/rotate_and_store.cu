// What becomes of q, k and v between their product and attention, in one pass over the heads:
// norm (where NORMED) and rotate q and k in place, and store k and v in their cache slots.
//
//   qkv               [num_tokens, num_heads + 2 * num_kv_heads, 2 * half_dim]  T: q, k, v; heads
//                     contiguous, tokens token_stride apart
//   cos_sin           [num_tokens, 2 * half_dim]  float32, cos in the first half
//   q_norm, k_norm    [2 * half_dim]              T, read where NORMED
//   k_cache, v_cache  [num_slots, num_kv_heads, 2 * half_dim]  T, or int8 where INT8; contiguous
//   k_scales, v_scales  as in cache.cuh, where INT8
//   slot_mapping      [num_tokens]                int32, each slot at most once; negative: the
//                     token is not stored
//
//   grid    num_tokens x ceil(heads / (128 / width)) blocks, heads of q, k and v alike
//   block   128 threads; width neighbouring lanes own a head, and of it pairs of vectors lane,
//           lane + width, ..., the second half_dim behind the first, which RoPE turns together
//   memory  reads qkv once (again, from cache, for a norm and for 8 bits), writes q, k and both
//           caches once; bandwidth-bound
//   needs   half_dim % LANES == 0, token_stride % LANES == 0, width a power of two up to 32
//
// It rounds where head_norm, rope and store_kv do: the normed value, then the turned one.
#include <ptx.cuh>

#include "cache.cuh"
#include "norm.cuh"
#include "rope.cuh"

// The turned pair of vectors; angles [2 * half_dim] are the token's.
template <typename T, int LANES>
__device__ inline void rotate(Vec<T, LANES>& first, Vec<T, LANES>& second, const float* angles,
                              int at, int half_dim) {
  constexpr int kLoad = LANES < 4 ? LANES : 4;
#pragma unroll
  for (int from = 0; from < LANES; from += kLoad) {
    const auto cosine = *reinterpret_cast<const Vec<float, kLoad>*>(angles + at + from);
    const auto sine = *reinterpret_cast<const Vec<float, kLoad>*>(angles + half_dim + at + from);
#pragma unroll
    for (int k = 0; k < kLoad; ++k) {
      float x = float(first.lane[from + k]), y = float(second.lane[from + k]);
      turn(x, y, cosine.lane[k], sine.lane[k]);
      first.lane[from + k] = T(x);
      second.lane[from + k] = T(y);
    }
  }
}

template <typename T, int LANES, bool NORMED, bool INT8>
__global__ void rotate_and_store(T* qkv, const float* cos_sin, const T* q_norm, const T* k_norm,
                                 Cached<T, INT8>* k_cache, Cached<T, INT8>* v_cache,
                                 float* k_scales, float* v_scales, const int* slot_mapping,
                                 int num_heads, int num_kv_heads, int half_dim, int block_size,
                                 long long token_stride, float eps, int width) {
  using Vector = Vec<T, LANES>;
  using Stored = Vec<Cached<T, INT8>, LANES>;
  allow_next();
  wait_for_previous();
  const size_t token = blockIdx.x;
  const int lane = threadIdx.x % width;
  const int head = blockIdx.y * (blockDim.x / width) + threadIdx.x / width;
  const bool is_q = head < num_heads;
  const bool is_v = head >= num_heads + num_kv_heads;
  const int num_pairs = half_dim / LANES;
  // Lanes past the last head stay for the shuffles, with nothing to read.
  const int owned = head < num_heads + 2 * num_kv_heads ? num_pairs : 0;
  auto* row = reinterpret_cast<Vector*>(qkv + token * token_stride) + (size_t)head * 2 * num_pairs;

  float inv_rms = 1.0f;
  if (NORMED) {
    float sum = 0.0f;
    for (int i = lane; i < owned; i += width)
      sum += sum_of_squares(row[i]) + sum_of_squares(row[num_pairs + i]);
    inv_rms = inverse_rms(warp_sum(sum, width), 2 * half_dim, eps);
  }

  const int slot = slot_mapping[token];
  const int kv_head = head - num_heads - (is_v ? num_kv_heads : 0);
  Stored* stored = nullptr;
  if (!is_q && slot >= 0)
    stored = reinterpret_cast<Stored*>(is_v ? v_cache : k_cache) +
             ((size_t)slot * num_kv_heads + kv_head) * 2 * num_pairs;
  const auto* weight = reinterpret_cast<const Vector*>(is_q ? q_norm : k_norm);
  float highest = 0.0f;
  for (int i = lane; i < owned; i += width) {
    Vector first = row[i], second = row[num_pairs + i];
    if (!is_v) {
      if (NORMED) {
        first = scaled(first, inv_rms, weight[i]);
        second = scaled(second, inv_rms, weight[num_pairs + i]);
      }
      rotate(first, second, cos_sin + token * 2 * half_dim, i * LANES, half_dim);
      row[i] = first;
      row[num_pairs + i] = second;
    }
    if constexpr (INT8) {
      highest = fmaxf(highest, fmaxf(largest_magnitude(first), largest_magnitude(second)));
    } else if (stored) {
      stored[i] = first;
      stored[num_pairs + i] = second;
    }
  }

  if constexpr (INT8) {
    const float scale = warp_max(highest, width) / 127.0f;
    if (!stored || owned == 0) return;
    if (lane == 0)
      (is_v ? v_scales : k_scales)[scale_index(slot, block_size, num_kv_heads, kv_head)] = scale;
    for (int i = lane; i < owned; i += width) {
      stored[i] = quantized(row[i], scale);
      stored[num_pairs + i] = quantized(row[num_pairs + i], scale);
    }
  }
}
