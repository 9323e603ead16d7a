// How a quantized matrix [num_rows, in_size] lies in memory: as the tensor cores' operands.
//
// Rows are taken 16 at a time, a tile, and columns kColumns at a time, a block: 64 of 4 bits, 32 of
// 8. The tile of gate and up (`paired`) has 8 rows of each. A warp loads a block of a tile in one
// go, 16 bytes a lane. With g = lane / 4 and t = lane % 4 a lane has, of the tile's rows g and
// g + 8, columns 8t to 8t + 7 of each 32: every 4 of them are an operand of mma (ptx.cuh), columns
// 4h, 4h + 1 in place of its 2t, 2t + 1 and columns 4h + 2, 4h + 3 of its 2t + 8, 2t + 9.
//
//   quants  [num_tiles, num_blocks, 32 lanes]  16 bytes
//             4 bits  word 2 i + h is operand h of the i-th 32 columns; bits 4 r of it are the
//                     first element of the operand's register r, bits 4 r + 16 the second
//             8 bits  words 2 h and 2 h + 1 are operand h, byte by byte; each is 128 too high
//   scales  of type S: T where it has 16 bits, else half
//             4 bits  [num_tiles, num_blocks, 8, 2 groups, 2 rows, 2]  scale and minimum of the i-th
//                     32 columns of rows g and g + 8;  weight = scale * quant + minimum
//             8 bits  [num_tiles, 16]  of each row;  weight = scale * quant
//
// Rows and columns beyond the matrix are zeros, and so are their scales. A weight of 16 bits is
// rounded once, so that a product of the operands is one of the matrix that `dequantize` makes.
#pragma once

#include <ptx.cuh>

#include "common.cuh"

constexpr int kTileRows = 16;

template <int BITS>
constexpr int kColumns = 256 / BITS;
template <int BITS>
constexpr int kGroups = kColumns<BITS> / 32;

// Two numbers of T, the lower half first.
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
  static constexpr unsigned kBase = 0x43004300u;  // 128, of which 4 low bits are enough
  static constexpr float kOffset = 128.0f;
};

template <typename T>
using PairOf = typename Pair<T>::Type;

// A matrix of float has scales of half.
template <typename T>
struct ScaleOf {
  using Type = T;
};
template <>
struct ScaleOf<float> {
  using Type = __half;
};
template <typename T>
using Scale = typename ScaleOf<T>::Type;

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

// Register r of an operand of 4 bits, as whole numbers.
template <typename T>
__device__ inline PairOf<T> numbers4(unsigned word, int r) {
  const unsigned bits = and_or(word >> (4 * r), 0x000f000fu, Pair<T>::kBase);
  return __hadd2(reinterpret_cast<const PairOf<T>&>(bits), twice<T>(-Pair<T>::kOffset));
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

// The row of the matrix that is row g (`upper`: g + 8) of a tile, -1 beyond the last.
__device__ inline int row_of_tile(int tile, int g, bool upper, int num_rows, bool paired) {
  if (!paired) {
    const int row = tile * kTileRows + g + (upper ? 8 : 0);
    return row < num_rows ? row : -1;
  }
  const int row = tile * 8 + g;
  return row < num_rows / 2 ? row + (upper ? num_rows / 2 : 0) : -1;
}

// Where the 16 bytes of scales that a lane needs for a block of 4 bits are, in such steps.
__device__ inline size_t scales_at(int tile, int num_blocks, int block, int g) {
  return (size_t(tile) * num_blocks + block) * 8 + g;
}
