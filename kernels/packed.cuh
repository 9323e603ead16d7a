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
//   scales  4 bits  [num_tiles, num_blocks, 8, 2 groups, 2]  half2: scale and minimum of the i-th
//                   32 columns of rows g and g + 8;  weight = scale * quant + minimum
//           8 bits  [num_tiles, 16]  half, of each row;  weight = scale * quant
//
// Rows and columns beyond the matrix are zeros, and so are their scales.
#pragma once

#include "common.cuh"

constexpr int kTileRows = 16;

template <int BITS>
constexpr int kColumns = 256 / BITS;
template <int BITS>
constexpr int kGroups = kColumns<BITS> / 32;

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
