// Makes quantized matrices, as packed.cuh has them, of a matrix of T; and the matrix again.
//
//   weight  [num_rows, in_size]  T, contiguous, 16-byte aligned
//   flag    [1]                  int32, set where a weight is not finite or no half holds its scale
//
//   grid    row_scales: a block for each row of the tiles. The others: num_blocks x num_tiles warps,
//           four of them a block along x
//   block   row_scales: 256 threads. The others: 128 threads
//   memory  each weight is read once (8 bits: twice), in vectors of 8
//   needs   in_size a multiple of 32, num_tiles below 65536
#include "packed.cuh"

constexpr int kThreads = 128;

// 8 neighbours of a row, in vectors of 16 bytes.
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

__device__ inline bool is_half(float x) { return fabsf(x) <= 65504.0f; }

// The scale of a row of 8 bits: its greatest magnitude is 127.
template <typename T>
__global__ void row_scales(const T* weight, __half* scales, int* flag, int num_rows, int in_size,
                           int paired) {
  const int tile = blockIdx.x / kTileRows, r = blockIdx.x % kTileRows;
  const int row = row_of_tile(tile, r % 8, r >= 8, num_rows, paired);
  float greatest = 0.0f;
  bool finite = true;
  for (int i = threadIdx.x; row >= 0 && i < in_size; i += blockDim.x) {
    const float w = float(weight[size_t(row) * in_size + i]);
    finite &= fabsf(w) < infinity();
    greatest = fmaxf(greatest, fabsf(w));
  }
  greatest = block_max(greatest);
  const float scale = greatest / 127.0f;
  if (threadIdx.x == 0) scales[blockIdx.x] = __half(is_half(scale) ? scale : 0.0f);
  if (!finite || !is_half(scale)) *flag = 1;
}

// The scale and minimum of 32 columns, of which each of four neighbouring lanes has eight.
__device__ inline __half2 group_scales(const float (&values)[8], int* flag) {
  float low = values[0], high = values[0];
  bool finite = true;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    finite &= fabsf(values[k]) < infinity();
    low = fminf(low, values[k]);
    high = fmaxf(high, values[k]);
  }
  for (int offset = 1; offset < 4; offset *= 2) {
    low = fminf(low, __shfl_xor_sync(kFullMask, low, offset));
    high = fmaxf(high, __shfl_xor_sync(kFullMask, high, offset));
  }
  const float scale = (high - low) / 15.0f;
  if (!finite || !is_half(low) || !is_half(high) || !is_half(scale)) {
    *flag = 1;
    return __floats2half2_rn(0.0f, 0.0f);
  }
  return __floats2half2_rn(scale, low);
}

__device__ inline unsigned quant4(float value, float2 scales) {
  if (scales.x == 0.0f) return 0;
  return unsigned(fminf(fmaxf(rintf((value - scales.y) / scales.x), 0.0f), 15.0f));
}

__device__ inline unsigned quant8(float value, float scale) {
  if (scale == 0.0f) return 128;
  return unsigned(fminf(fmaxf(rintf(value / scale), -127.0f), 127.0f) + 128.0f);
}

template <typename T, int BITS>
__global__ void __launch_bounds__(kThreads)
    quantize(const T* weight, uint4* quants, void* scales, int* flag, int num_rows, int in_size,
             int paired) {
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  unsigned words[4] = {};
  __half2 found[4] = {};
#pragma unroll
  for (int i = 0; i < kGroups<BITS>; ++i) {
    const int column = block * kColumns<BITS> + i * 32 + t * 8;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = row_of_tile(tile, g, upper, num_rows, paired);
      const bool exists = row >= 0 && column < in_size;
      float values[8] = {};
      if (exists) load_elements(weight + size_t(row) * in_size + column, values);
      if constexpr (BITS == 4) {
        const __half2 own = group_scales(values, flag);
        const float2 scale = __half22float2(own);
        found[2 * i + upper] = own;
#pragma unroll
        for (int k = 0; k < 8; ++k)
          // Element k is the (k % 2)th of register (k / 2 % 2) * 2 + upper of operand k / 4.
          words[2 * i + k / 4] |= quant4(values[k], scale)
                                  << (4 * (k / 2 % 2 * 2 + upper) + 16 * (k % 2));
      } else {
        const float scale = float(static_cast<__half*>(scales)[tile * kTileRows + g + 8 * upper]);
#pragma unroll
        for (int k = 0; k < 8; ++k)
          words[k / 2] |= quant8(values[k], exists ? scale : 0.0f) << (8 * (k % 2 + 2 * upper));
      }
    }
  }
  quants[(size_t(tile) * num_blocks + block) * kWarpSize + lane] =
      make_uint4(words[0], words[1], words[2], words[3]);
  if (BITS == 4 && t == 0)
    static_cast<Vec<__half2>*>(scales)[scales_at(tile, num_blocks, block, g)] = {
        {found[0], found[1], found[2], found[3]}};
}

template <typename T>
__device__ inline void store_elements(T* to, const float (&values)[8]) {
  constexpr int kLanes = Vec<T>::kLanes;
#pragma unroll
  for (int v = 0; v < 8 / kLanes; ++v) {
    Vec<T> vec;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) vec.lane[k] = T(values[v * kLanes + k]);
    reinterpret_cast<Vec<T>*>(to)[v] = vec;
  }
}

// What a quantized matrix stands for, rounded to T.
template <typename T, int BITS>
__global__ void __launch_bounds__(kThreads)
    dequantize(const uint4* quants, const void* scales, T* weight, int num_rows, int in_size,
               int paired) {
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  const uint4 own = quants[(size_t(tile) * num_blocks + block) * kWarpSize + lane];
  const unsigned words[4] = {own.x, own.y, own.z, own.w};
  Vec<__half2> found;
  if (BITS == 4)
    found = static_cast<const Vec<__half2>*>(scales)[scales_at(tile, num_blocks, block, g)];
#pragma unroll
  for (int i = 0; i < kGroups<BITS>; ++i) {
    const int column = block * kColumns<BITS> + i * 32 + t * 8;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = row_of_tile(tile, g, upper, num_rows, paired);
      if (row < 0 || column >= in_size) continue;
      float values[8];
      if constexpr (BITS == 4) {
        const float2 scale = __half22float2(found.lane[2 * i + upper]);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const int shift = 4 * (k / 2 % 2 * 2 + upper) + 16 * (k % 2);
          values[k] = fmaf(float(words[2 * i + k / 4] >> shift & 15), scale.x, scale.y);
        }
      } else {
        const float scale =
            float(static_cast<const __half*>(scales)[tile * kTileRows + g + 8 * upper]);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const int quant = words[k / 2] >> (8 * (k % 2 + 2 * upper)) & 255;
          values[k] = float(quant - 128) * scale;
        }
      }
      store_elements(weight + size_t(row) * in_size + column, values);
    }
  }
}
