// How a quantized matrix [num_rows, in_size] lies in memory: as the tensor cores' operands.
//
// Rows are taken 16 at a time, a tile, and columns kColumns at a time, a block: 64 of 4 or 6 bits,
// 32 of 8. The tile of gate and up (`paired`) has 8 rows of each. A warp loads a block of a tile in
// one go, 16 bytes a lane. With g = lane / 4 and t = lane % 4 a lane has, of the tile's rows g and
// g + 8, columns 8t to 8t + 7 of each 32: every 4 of them are an operand of mma (ptx.cuh), columns
// 4h, 4h + 1 in place of its 2t, 2t + 1 and columns 4h + 2, 4h + 3 of its 2t + 8, 2t + 9.
//
//   quants  [num_tiles, num_blocks, kBlockBytes]  of each block first [32 lanes] 16 bytes
//             4 bits  word 2 i + h is operand h of the i-th 32 columns; bits 4 r of it are the
//                     first element of the operand's register r, bits 4 r + 16 the second
//             6 bits  the same of the low 4 bits. Behind them [32 lanes] 8 bytes: of word i bits
//                     2 (4 h + r) are the high 2 bits of the first element, those + 16 the second's
//             8 bits  words 2 h and 2 h + 1 are operand h, byte by byte; each is 128 too high
//   scales  of type S: T where it has 16 bits, else half. GROUP columns share one; 0: the row does
//             4 bits, 32  [num_tiles, num_blocks, 8, 2 groups, 2 rows, 2]  scale and minimum of the
//             6 bits, 32  i-th 32 columns of rows g and g + 8;  weight = scale * quant + minimum
//             6 bits, 16  the same shape, of the two 16 columns;  weight = scale * (quant - 32)
//             8 bits, 32  [num_tiles, num_blocks, 8, 2 rows];  weight = scale * quant
//             8 bits, 0   [num_tiles, 16]  of each row;  weight = scale * quant
//
// Rows and columns beyond the matrix have scales and minima of 0. A weight of 16 bits is rounded
// once, so that a product of the operands is one of the matrix that `dequantize` makes.
#pragma once

#include <ptx.cuh>

#include "pairs.cuh"

constexpr int kTileRows = 16;

template <int BITS>
constexpr int kColumns = BITS == 8 ? 32 : 64;
template <int BITS>
constexpr int kGroups = kColumns<BITS> / 32;
template <int BITS>
constexpr int kBlockBytes = 2 * BITS * kColumns<BITS>;

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

// Register r of an operand of 4 bits, above the base.
template <typename T>
__device__ inline unsigned above_base(unsigned word, int r) {
  return and_or(word >> (4 * r), 0x000f000fu, Pair<T>::kBase);
}

// 8 neighbours of a row of T, 16-byte aligned.
template <typename T>
__device__ inline void store_elements(const T (&values)[8], T* to) {
#pragma unroll
  for (int v = 0; v < 8 / Vec<T>::kLanes; ++v)
    reinterpret_cast<Vec<T>*>(to)[v] = reinterpret_cast<const Vec<T>*>(values)[v];
}

// Of a float32, as S; infinite ones are no scales.
template <typename S>
__device__ inline S as_scale(float value, int* flag) {
  const S scale = S(value);
  if (fabsf(float(scale)) < infinity()) return scale;
  *flag = 1;
  return S(0.0f);
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

// What a lane has of a block of a tile. Row scales (GROUP 0) are no part of it.
template <typename S, int BITS, int GROUP>
struct Held {
  uint4 words;
  uint2 high;  // of 6 bits
  Vec<S, BITS == 8 ? 2 : 8> scales;
};

__device__ inline unsigned& lane_of(uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

template <typename S, int BITS, int GROUP>
__device__ inline void load_block(Held<S, BITS, GROUP>& held, const unsigned char* quants,
                                  const S* scales, int tile, int num_blocks, int block, int lane) {
  const size_t at = size_t(tile) * num_blocks + block;
  const unsigned char* own = quants + at * kBlockBytes<BITS>;
  held.words = __ldcs(reinterpret_cast<const uint4*>(own) + lane);
  if constexpr (BITS == 6)
    held.high = __ldcs(reinterpret_cast<const uint2*>(own + 16 * kWarpSize) + lane);
  if constexpr (GROUP != 0)
    held.scales = reinterpret_cast<const Vec<S, BITS == 8 ? 2 : 8>*>(scales)[at * 8 + lane / 4];
}

// Puts the k-th of a lane's 8 neighbours in the i-th 32 columns of row g, or g + 8, in its place
// among zeros; a number of 8 bits is 128 too high.
template <typename S, int BITS, int GROUP>
__device__ inline void put(Held<S, BITS, GROUP>& held, unsigned quant, int i, int upper, int k) {
  // It is the (k % 2)th of register r of operand k / 4.
  const int r = k / 2 % 2 * 2 + upper;
  if (BITS == 8) {
    lane_of(held.words, k / 2) |= quant << (8 * (k % 2 + 2 * upper));
    return;
  }
  lane_of(held.words, 2 * i + k / 4) |= (quant & 15) << (4 * r + 16 * (k % 2));
  if (BITS == 6)
    (i == 0 ? held.high.x : held.high.y) |= quant >> 4 << (2 * (4 * (k / 4) + r) + 16 * (k % 2));
}

// All lanes of the warp together.
template <typename S, int BITS, int GROUP>
__device__ inline void store_block(const Held<S, BITS, GROUP>& held, unsigned char* quants,
                                   S* scales, int tile, int num_blocks, int block, int lane) {
  const size_t at = size_t(tile) * num_blocks + block;
  unsigned char* own = quants + at * kBlockBytes<BITS>;
  reinterpret_cast<uint4*>(own)[lane] = held.words;
  if constexpr (BITS == 6) reinterpret_cast<uint2*>(own + 16 * kWarpSize)[lane] = held.high;
  if constexpr (GROUP != 0) {
    if (lane % 4 == 0)
      reinterpret_cast<Vec<S, BITS == 8 ? 2 : 8>*>(scales)[at * 8 + lane / 4] = held.scales;
  }
}

// Register r of operand h of the i-th 32 columns, as whole numbers.
template <typename S, int BITS, int GROUP>
__device__ inline PairOf<S> numbers(const Held<S, BITS, GROUP>& held, int i, int h, int r) {
  const unsigned words[4] = {held.words.x, held.words.y, held.words.z, held.words.w};
  if constexpr (BITS == 8) {
    return numbers8<S>(words[2 * h + r / 2], r % 2 * 2);
  } else if constexpr (BITS == 4) {
    return from_base<S>(above_base<S>(words[2 * i + h], r), 0.0f);
  } else {
    const unsigned high = i == 0 ? held.high.x : held.high.y;
    const int down = 2 * (4 * h + r) - 4;
    const unsigned moved = down < 0 ? high << -down : high >> down;
    const unsigned bits = and_or(moved, 0x00300030u, above_base<S>(words[2 * i + h], r));
    return from_base<S>(bits, GROUP == 16 ? 32.0f : 0.0f);
  }
}

// Scale and minimum of such a register, whose row is g, or g + 8 where r is odd.
template <typename S>
struct Scaling {
  S scale, minimum;
};

template <typename S, int BITS, int GROUP>
__device__ inline Scaling<S> scaling(const Held<S, BITS, GROUP>& held, const Vec<S, 2>& row_scales,
                                     int i, int r, int lane) {
  const int upper = r % 2;
  if constexpr (GROUP == 0) return {row_scales.lane[upper], S(0.0f)};
  if constexpr (BITS == 8) return {held.scales.lane[upper], S(0.0f)};
  const S first = held.scales.lane[4 * i + 2 * upper];
  const S second = held.scales.lane[4 * i + 2 * upper + 1];
  if constexpr (GROUP == 16) return {lane % 4 < 2 ? first : second, S(0.0f)};
  return {first, second};
}

// Whether weights are scale * number + minimum.
template <int BITS, int GROUP>
constexpr bool kHasMinima = BITS != 8 && GROUP == 32;

template <typename S>
__device__ inline Vec<S, 2> load_row_scales(const S* scales, int tile, int lane) {
  const S* own = scales + tile * kTileRows + lane / 4;
  return {{own[0], own[8]}};
}
