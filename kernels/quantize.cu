// Makes quantized matrices, as packed.cuh has them, of a matrix of T; and the matrix again.
//
//   weight  [num_rows, in_size]  T, contiguous, 16-byte aligned
//   flag    [1]                  int32, set where a weight or its scale is not finite
//
//   grid    row_scales: a block for each row of the tiles. The others: num_blocks x num_tiles warps,
//           four of them a block along x
//   block   row_scales: 256 threads. The others: 128 threads
//   memory  each weight is read once (8 bits: twice), in vectors of 16 bytes
//   needs   in_size a multiple of 32, num_tiles below 65536
#include "packed.cuh"

constexpr int kThreads = 128;

// 8 neighbours of a row.
template <typename T>
__device__ inline void load_elements(const T* from, float (&values)[8]) {
  constexpr int kLanes = Vec<T>::kLanes;
#pragma unroll
  for (int v = 0; v < 8 / kLanes; ++v) {
    const Vec<T> vec = reinterpret_cast<const Vec<T>*>(from)[v];
#pragma unroll
    for (int k = 0; k < kLanes; ++k) values[v * kLanes + k] = float(vec.lane[k]);
  }
}

// Of a float32, as S; infinite ones are no scales.
template <typename S>
__device__ inline S as_scale(float value, int* flag) {
  const S scale = S(value);
  if (fabsf(float(scale)) < infinity()) return scale;
  *flag = 1;
  return S(0.0f);
}

// The scale of a row of 8 bits: its greatest magnitude is 127.
template <typename T>
__global__ void row_scales(const T* weight, Scale<T>* scales, int* flag, int num_rows, int in_size,
                           int paired) {
  const int tile = blockIdx.x / kTileRows, r = blockIdx.x % kTileRows;
  const int row = row_of_tile(tile, r % 8, r >= 8, num_rows, paired);
  float greatest = 0.0f;
  for (int i = threadIdx.x; row >= 0 && i < in_size; i += blockDim.x) {
    const float w = fabsf(float(weight[size_t(row) * in_size + i]));
    if (!(w < infinity())) *flag = 1;
    greatest = fmaxf(greatest, w);
  }
  greatest = block_max(greatest);
  if (threadIdx.x == 0) scales[blockIdx.x] = as_scale<Scale<T>>(greatest / 127.0f, flag);
}

// The scale and minimum of 32 columns, of which each of four neighbouring lanes has eight.
template <typename S>
__device__ inline Vec<S, 2> group_scales(const float (&values)[8], int* flag) {
  float low = values[0], high = values[0];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (!(fabsf(values[k]) < infinity())) *flag = 1;
    low = fminf(low, values[k]);
    high = fmaxf(high, values[k]);
  }
  for (int offset = 1; offset < 4; offset *= 2) {
    low = fminf(low, __shfl_xor_sync(kFullMask, low, offset));
    high = fmaxf(high, __shfl_xor_sync(kFullMask, high, offset));
  }
  return {{as_scale<S>((high - low) / 15.0f, flag), as_scale<S>(low, flag)}};
}

__device__ inline unsigned quant(float value, float scale, float low, float high) {
  return scale == 0.0f ? 0 : unsigned(int(fminf(fmaxf(rintf(value / scale), low), high)));
}

template <typename T, int BITS>
__global__ void __launch_bounds__(kThreads)
    quantize(const T* weight, uint4* quants, Scale<T>* scales, int* flag, int num_rows, int in_size,
             int paired) {
  using S = Scale<T>;
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  unsigned words[4] = {};
  Vec<S> found;
#pragma unroll
  for (int i = 0; i < kGroups<BITS>; ++i) {
    const int column = block * kColumns<BITS> + i * 32 + t * 8;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = row_of_tile(tile, g, upper, num_rows, paired);
      float values[8] = {};
      if (row >= 0 && column < in_size)
        load_elements(weight + size_t(row) * in_size + column, values);
      if constexpr (BITS == 4) {
        const Vec<S, 2> own = group_scales<S>(values, flag);
        found.lane[4 * i + 2 * upper] = own.lane[0];
        found.lane[4 * i + 2 * upper + 1] = own.lane[1];
        const float scale = float(own.lane[0]), minimum = float(own.lane[1]);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          // Element k is the (k % 2)th of register (k / 2 % 2) * 2 + upper of operand k / 4.
          const int shift = 4 * (k / 2 % 2 * 2 + upper) + 16 * (k % 2);
          words[2 * i + k / 4] |= quant(values[k] - minimum, scale, 0.0f, 15.0f) << shift;
        }
      } else {
        const float scale = float(scales[tile * kTileRows + g + 8 * upper]);
#pragma unroll
        for (int k = 0; k < 8; ++k)
          words[k / 2] |= (quant(values[k], scale, -127.0f, 127.0f) + 128)
                          << (8 * (k % 2 + 2 * upper));
      }
    }
  }
  quants[(size_t(tile) * num_blocks + block) * kWarpSize + lane] =
      make_uint4(words[0], words[1], words[2], words[3]);
  if (BITS == 4 && t == 0)
    reinterpret_cast<Vec<S>*>(scales)[scales_at(tile, num_blocks, block, g)] = found;
}

// Whole numbers times scale, plus minimum, rounded to T: as the operands of a product are.
__device__ inline void scale_pair(__half2 numbers, __half scale, __half minimum, __half* to) {
  const __half2 pair = __hfma2(numbers, twice(scale), twice(minimum));
  to[0] = pair.x;
  to[1] = pair.y;
}

__device__ inline void scale_pair(__nv_bfloat162 numbers, __nv_bfloat16 scale,
                                  __nv_bfloat16 minimum, __nv_bfloat16* to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // has no such instruction
  to[0] = __double2bfloat16(
      fma(double(float(numbers.x)), double(float(scale)), double(float(minimum))));
  to[1] = __double2bfloat16(
      fma(double(float(numbers.y)), double(float(scale)), double(float(minimum))));
#else
  const __nv_bfloat162 pair = __hfma2(numbers, twice(scale), twice(minimum));
  to[0] = pair.x;
  to[1] = pair.y;
#endif
}

__device__ inline void scale_pair(__half2 numbers, __half scale, __half minimum, float* to) {
  to[0] = fmaf(float(numbers.x), float(scale), float(minimum));
  to[1] = fmaf(float(numbers.y), float(scale), float(minimum));
}

// What a quantized matrix stands for.
template <typename T, int BITS>
__global__ void __launch_bounds__(kThreads)
    dequantize(const uint4* quants, const Scale<T>* scales, T* weight, int num_rows, int in_size,
               int paired) {
  using S = Scale<T>;
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  const uint4 own = quants[(size_t(tile) * num_blocks + block) * kWarpSize + lane];
  const unsigned words[4] = {own.x, own.y, own.z, own.w};
  Vec<S> found;
  if (BITS == 4)
    found = reinterpret_cast<const Vec<S>*>(scales)[scales_at(tile, num_blocks, block, g)];
#pragma unroll
  for (int i = 0; i < kGroups<BITS>; ++i) {
    const int column = block * kColumns<BITS> + i * 32 + t * 8;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = row_of_tile(tile, g, upper, num_rows, paired);
      if (row < 0 || column >= in_size) continue;
      alignas(16) T values[8];
#pragma unroll
      for (int k = 0; k < 8; k += 2) {
        if constexpr (BITS == 4) {
          const S scale = found.lane[4 * i + 2 * upper],
                  minimum = found.lane[4 * i + 2 * upper + 1];
          const auto pair = numbers4<S>(words[2 * i + k / 4], k / 2 % 2 * 2 + upper);
          scale_pair(pair, scale, minimum, values + k);
        } else {
          const S scale = scales[tile * kTileRows + g + 8 * upper];
          scale_pair(numbers8<S>(words[k / 2], 2 * upper), scale, S(0.0f), values + k);
        }
      }
      auto* to = reinterpret_cast<Vec<T>*>(weight + size_t(row) * in_size + column);
#pragma unroll
      for (int v = 0; v < 8 / Vec<T>::kLanes; ++v)
        to[v] = reinterpret_cast<const Vec<T>*>(values)[v];
    }
  }
}
