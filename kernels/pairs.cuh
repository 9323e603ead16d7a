// Pairs of 16-bit numbers in a register, the lower half first, and how bytes become some.
#pragma once

#include "common.cuh"

template <typename T>
struct Pair;
template <>
struct Pair<__half> {
  using Type = __half2;
  static constexpr unsigned kBase = 0x64006400u;  // 1024, twice: its low bits count from there
  static constexpr float kOffset = 1024.0f;
};
template <>
struct Pair<__nv_bfloat16> {
  using Type = __nv_bfloat162;
  static constexpr unsigned kBase = 0x43004300u;  // 128: enough for 6 bits, not for 8
  static constexpr float kOffset = 128.0f;
};

template <typename T>
using PairOf = typename Pair<T>::Type;

template <typename T>
__device__ inline PairOf<T> twice(float value);
template <>
__device__ inline __half2 twice<__half>(float value) {
  return __float2half2_rn(value);
}
template <>
__device__ inline __nv_bfloat162 twice<__nv_bfloat16>(float value) {
  return __float2bfloat162_rn(value);
}

__device__ inline __half2 twice(__half value) { return __half2half2(value); }
__device__ inline __nv_bfloat162 twice(__nv_bfloat16 value) { return __bfloat162bfloat162(value); }

// Two numbers above the base, and `offset` less.
template <typename T>
__device__ inline PairOf<T> from_base(unsigned bits, float offset) {
  return __hadd2(reinterpret_cast<const PairOf<T>&>(bits), twice<T>(-Pair<T>::kOffset - offset));
}

// Two numbers, each rounded to T.
template <typename T>
__device__ inline unsigned pack(float low, float high) {
  const Vec<T, 2> pair = {{T(low), T(high)}};
  return *reinterpret_cast<const unsigned*>(&pair);
}

// Two neighbouring bytes of a word, from `first` on, as whole numbers, 128 lower. bfloat16 has too
// few bits for them above a base; they go by way of a float, which has 16 to spare.
template <typename T>
__device__ inline PairOf<T> numbers8(unsigned word, int first) {
  if constexpr (Pair<T>::kOffset == 1024.0f) {
    const unsigned bits = __byte_perm(word, Pair<T>::kBase, 0x5050 + (first + 1) * 0x100 + first);
    return __hadd2(reinterpret_cast<const PairOf<T>&>(bits), twice<T>(-1024.0f - 128.0f));
  } else {
    constexpr float kOffset = 8388608.0f + 128.0f;
    const float x = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + first)) - kOffset;
    const float y = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + first + 1)) - kOffset;
    const unsigned bits = __byte_perm(__float_as_uint(x), __float_as_uint(y), 0x7632);
    return reinterpret_cast<const PairOf<T>&>(bits);
  }
}
