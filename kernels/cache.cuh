// The rows of the KV cache, in the element type T of the model or in 8 bits.
//
//   cache   [num_blocks, block_size, num_kv_heads, head_dim]  T, or int8
//   scales  [num_blocks, num_kv_heads, block_size]            float32, of int8 alone
//
// In 8 bits each head of each token has a scale of its own, its largest magnitude / 127, and an
// element is worth scale * number. A scale that rounds to zero stands for a row of zeros.
#pragma once

#include "common.cuh"

template <typename T, bool INT8>
struct CacheElement {
  using Type = T;
};
template <typename T>
struct CacheElement<T, true> {
  using Type = signed char;
};
template <typename T, bool INT8>
using Cached = typename CacheElement<T, INT8>::Type;

// How many of them are loaded at once: 16 bytes, or 8 bytes of 8 bits.
template <typename E>
constexpr int kCacheLanes = sizeof(E) == 1 ? 8 : 16 / sizeof(E);

// A vector, or zeros where there is none to load.
template <typename E, int LANES>
__device__ inline Vec<E, LANES> load_if(bool exists, const Vec<E, LANES>* from) {
  using Words = Vec<unsigned, sizeof(E) * LANES / 4>;
  Words words = {};
  if (exists) words = *reinterpret_cast<const Words*>(from);
  return reinterpret_cast<const Vec<E, LANES>&>(words);
}

// Where the scale of a head in a slot is.
__device__ inline size_t scale_index(int slot, int block_size, int num_kv_heads, int kv_head) {
  return ((size_t)(slot / block_size) * num_kv_heads + kv_head) * block_size + slot % block_size;
}

// Four numbers as floats. A byte below the exponent of 2^23 counts from there, so that one byte
// permutation and one sum do what a conversion takes four times as long for.
__device__ inline void unpack4(unsigned word, float (&out)[4]) {
  const unsigned raised = word ^ 0x80808080u;  // 128 higher
#pragma unroll
  for (int k = 0; k < 4; ++k)
    out[k] = __uint_as_float(__byte_perm(raised, 0x4b000000u, 0x7440 + k)) - (8388608.0f + 128.0f);
}

// A vector of the cache in float32; of 8 bits without the scale.
template <typename E, int LANES>
__device__ inline void unpack(Vec<E, LANES> vec, float (&out)[LANES]) {
  if constexpr (sizeof(E) == 1) {
    static_assert(LANES % 4 == 0, "whole words");
    const auto* words = reinterpret_cast<const unsigned*>(&vec);
#pragma unroll
    for (int word = 0; word < LANES / 4; ++word) {
      float part[4];
      unpack4(words[word], part);
#pragma unroll
      for (int k = 0; k < 4; ++k) out[4 * word + k] = part[k];
    }
  } else {
#pragma unroll
    for (int k = 0; k < LANES; ++k) out[k] = float(vec.lane[k]);
  }
}

// A vector of numbers as T.
template <typename T, int LANES>
__device__ inline Vec<T, LANES> expanded(Vec<signed char, LANES> numbers, float scale) {
  Vec<T, LANES> out;
  if constexpr (LANES % 4 == 0) {
    float wide[LANES];
    unpack(numbers, wide);
#pragma unroll
    for (int k = 0; k < LANES; ++k) out.lane[k] = T(scale * wide[k]);
  } else {
    for (int k = 0; k < LANES; ++k) out.lane[k] = T(scale * float(numbers.lane[k]));
  }
  return out;
}

template <typename T, int LANES>
__device__ inline float largest_magnitude(const Vec<T, LANES>& vec) {
  float highest = 0.0f;
#pragma unroll
  for (int k = 0; k < LANES; ++k) highest = fmaxf(highest, fabsf(float(vec.lane[k])));
  return highest;
}

// A vector of a row whose scale this is, in 8 bits.
template <typename T, int LANES>
__device__ inline Vec<signed char, LANES> quantized(const Vec<T, LANES>& vec, float scale) {
  Vec<signed char, LANES> out;
#pragma unroll
  for (int k = 0; k < LANES; ++k) {
    const float number = scale == 0.0f ? 0.0f : rintf(float(vec.lane[k]) / scale);
    // A subnormal scale is a rough one; and what is no number gets one.
    out.lane[k] = (signed char)fminf(fmaxf(number, -127.0f), 127.0f);
  }
  return out;
}
