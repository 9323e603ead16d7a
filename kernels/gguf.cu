// Matrices in the blocks of a GGUF file: packed as packed.cuh has them, or expanded to T.
//
//   raw     [num_rows, in_size / kSize * kBytes]  the file's blocks, in its order of bytes
//   flag    [1]  int32. repack: set where a scale or a minimum is not finite; expand: where a
//                finite weight has become infinite
//
//   TYPE    the block type's number in a GGUF file; gguf_quants.py says the same in NumPy
//   grid    repack: num_blocks x num_tiles warps, four of them a block along x
//           expand: a thread for each 8 neighbours of a row
//   block   128 threads
//   memory  reads each block once, in bytes; writes vectors of 16 bytes
//   needs   in_size a multiple of kSize, num_tiles below 65536
#include "packed.cuh"

constexpr int kThreads = 128;

enum BlockType { kQ4_0 = 2, kQ4_1, kQ5_0 = 6, kQ5_1, kQ8_0, kQ4_K = 12, kQ5_K, kQ6_K };

// Weights in a block, its bytes, and how packed.cuh holds them.
template <int SIZE, int BYTES, int BITS, int GROUP>
struct Layout {
  static constexpr int kSize = SIZE, kBytes = BYTES, kBits = BITS, kGroup = GROUP;
};

template <int TYPE>
struct Blocks;
template <>
struct Blocks<kQ4_0> : Layout<32, 18, 4, 32> {};
template <>
struct Blocks<kQ4_1> : Layout<32, 20, 4, 32> {};
template <>
struct Blocks<kQ5_0> : Layout<32, 22, 6, 32> {};
template <>
struct Blocks<kQ5_1> : Layout<32, 24, 6, 32> {};
template <>
struct Blocks<kQ8_0> : Layout<32, 34, 8, 32> {};
template <>
struct Blocks<kQ4_K> : Layout<256, 144, 4, 32> {};
template <>
struct Blocks<kQ5_K> : Layout<256, 176, 6, 32> {};
template <>
struct Blocks<kQ6_K> : Layout<256, 210, 6, 16> {};

template <int TYPE>
constexpr bool kHasMinimum = TYPE == kQ4_1 || TYPE == kQ5_1 || TYPE == kQ4_K || TYPE == kQ5_K;

// 8 neighbours: weight = scale * (quant - offset) + minimum, where a type has one.
struct Eight {
  unsigned quants[8];
  float scale, minimum;
  int offset;
};

__device__ inline float half_at(const unsigned char* at) {
  return float(*reinterpret_cast<const __half*>(at));
}

// Of a block of 32, columns 0 to 15 are in the low halves of its bytes, the others in the high.
__device__ inline unsigned nibble(const unsigned char* bytes, int column) {
  return column < 16 ? bytes[column] & 15 : bytes[column - 16] >> 4;
}

// Scale and minimum of sub-block `sub` of a Q4_K or a Q5_K, 6 bits each in 12 bytes.
__device__ inline void sub_scales(const unsigned char* block, int sub, Eight& out) {
  const unsigned char* packed = block + 4;
  unsigned scale, minimum;
  if (sub < 4) {
    scale = packed[sub] & 63;
    minimum = packed[sub + 4] & 63;
  } else {
    scale = (packed[sub + 4] & 15) | (packed[sub - 4] >> 6 << 4);
    minimum = (packed[sub + 4] >> 4) | (packed[sub] >> 6 << 4);
  }
  out.scale = half_at(block) * float(scale);
  out.minimum = -(half_at(block + 2) * float(minimum));
}

// Columns `column` to column + 7 of a block; a multiple of 8.
template <int TYPE>
__device__ inline Eight read_eight(const unsigned char* block, int column) {
  Eight out = {};
  out.scale = half_at(TYPE == kQ6_K ? block + 208 : block);
  if (TYPE == kQ4_1 || TYPE == kQ5_1) out.minimum = half_at(block + 2);
  if (TYPE == kQ4_0) out.offset = 8;
  if (TYPE == kQ5_0) out.offset = 16;
  if (TYPE == kQ8_0) out.offset = 128;
  if (TYPE == kQ6_K) out.offset = 32;
  if (TYPE == kQ4_K || TYPE == kQ5_K) sub_scales(block, column / 32, out);
  if (TYPE == kQ6_K) out.scale *= float(static_cast<signed char>(block[192 + column / 16]));
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int c = column + k;
    unsigned& quant = out.quants[k];
    if (TYPE == kQ4_0) quant = nibble(block + 2, c);
    if (TYPE == kQ4_1) quant = nibble(block + 4, c);
    if (TYPE == kQ5_0) quant = nibble(block + 6, c) | (block[2 + c / 8] >> c % 8 & 1) << 4;
    if (TYPE == kQ5_1) quant = nibble(block + 8, c) | (block[4 + c / 8] >> c % 8 & 1) << 4;
    if (TYPE == kQ8_0) quant = block[2 + c] ^ 128u;
    if (TYPE == kQ4_K || TYPE == kQ5_K) {
      const int byte = c / 64 * 32 + c % 32, sub = c / 32;
      quant = block[(TYPE == kQ4_K ? 16 : 48) + byte] >> (sub % 2 * 4) & 15;
      if (TYPE == kQ5_K) quant |= (block[16 + c % 32] >> sub & 1u) << 4;
    }
    if (TYPE == kQ6_K) {
      const int part = c / 128, sub = c / 32 % 4;
      const unsigned low = block[part * 64 + sub % 2 * 32 + c % 32] >> (sub / 2 * 4) & 15;
      quant = low | (block[128 + part * 32 + c % 32] >> (2 * sub) & 3u) << 4;
    }
  }
  return out;
}

template <int TYPE>
__device__ inline Eight eight_of(const unsigned char* raw, int row, int in_size, int column) {
  using B = Blocks<TYPE>;
  const size_t block = size_t(row) * (in_size / B::kSize) + column / B::kSize;
  return read_eight<TYPE>(raw + block * B::kBytes, column % B::kSize);
}

template <typename T, int TYPE>
__global__ void __launch_bounds__(kThreads)
    repack(const unsigned char* raw, unsigned char* quants, Scale<T>* scales, int* flag,
           int num_rows, int in_size, int paired) {
  using S = Scale<T>;
  constexpr int kBits = Blocks<TYPE>::kBits, kGroup = Blocks<TYPE>::kGroup;
  const int num_blocks = (in_size + kColumns<kBits> - 1) / kColumns<kBits>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  Held<S, kBits, kGroup> held = {};
#pragma unroll
  for (int i = 0; i < kGroups<kBits>; ++i) {
    const int column = block * kColumns<kBits> + i * 32 + t * 8;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = row_of_tile(tile, g, upper, num_rows, paired);
      Eight own = {};
      if (row >= 0 && column < in_size) own = eight_of<TYPE>(raw, row, in_size, column);
#pragma unroll
      for (int k = 0; k < 8; ++k) put(held, own.quants[k], i, upper, k);
      const S scale = as_scale<S>(own.scale, flag);
      // Of the lanes that store, the neighbour two further has the second 16 columns.
      const S second = S(__shfl_down_sync(kFullMask, float(scale), 2));
      const float shifted = own.minimum - float(own.offset) * float(scale);
      if constexpr (kBits == 8) {
        held.scales.lane[upper] = scale;
      } else {
        held.scales.lane[4 * i + 2 * upper] = scale;
        held.scales.lane[4 * i + 2 * upper + 1] =
            kGroup == 16 ? second : as_scale<S>(shifted, flag);
      }
    }
  }
  store_block(held, quants, scales, tile, num_blocks, block, lane);
}

template <typename T, int TYPE>
__global__ void __launch_bounds__(kThreads)
    expand(const unsigned char* raw, T* weight, int* flag, int num_rows, int in_size) {
  const int eights = in_size / 8;
  const size_t index = size_t(blockIdx.x) * kThreads + threadIdx.x;
  const int row = int(index / eights), column = int(index % eights) * 8;
  if (row >= num_rows) return;
  const Eight own = eight_of<TYPE>(raw, row, in_size, column);
  alignas(16) T values[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float number = float(int(own.quants[k]) - own.offset);
    // As the format defines it: a product, and a sum of its own.
    float value = __fmul_rn(number, own.scale);
    if (kHasMinimum<TYPE>) value = __fadd_rn(value, own.minimum);
    values[k] = T(value);
    if (isinf(float(values[k])) && !isinf(value)) *flag = 1;
  }
  store_elements(values, weight + size_t(row) * in_size + column);
}
