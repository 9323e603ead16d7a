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
    quantize(const T* weight, unsigned char* quants, Scale<T>* scales, int* flag, int num_rows,
             int in_size, int paired) {
  using S = Scale<T>;
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  Held<S, BITS, BITS == 4 ? 32 : 0> held = {};
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
        held.scales.lane[4 * i + 2 * upper] = own.lane[0];
        held.scales.lane[4 * i + 2 * upper + 1] = own.lane[1];
        const float scale = float(own.lane[0]), minimum = float(own.lane[1]);
#pragma unroll
        for (int k = 0; k < 8; ++k)
          put(held, quant(values[k] - minimum, scale, 0.0f, 15.0f), i, upper, k);
      } else {
        const float scale = float(scales[tile * kTileRows + g + 8 * upper]);
#pragma unroll
        for (int k = 0; k < 8; ++k)
          put(held, quant(values[k], scale, -127.0f, 127.0f) + 128, i, upper, k);
      }
    }
  }
  store_block(held, quants, scales, tile, num_blocks, block, lane);
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
template <typename T, int BITS, int GROUP>
__global__ void __launch_bounds__(kThreads)
    dequantize(const unsigned char* quants, const Scale<T>* scales, T* weight, int num_rows,
               int in_size, int paired) {
  using S = Scale<T>;
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int block = (blockIdx.x * kThreads + threadIdx.x) / kWarpSize, tile = blockIdx.y;
  if (block >= num_blocks) return;
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  Held<S, BITS, GROUP> held;
  load_block(held, quants, scales, tile, num_blocks, block, lane);
  Vec<S, 2> row_scales;
  if constexpr (GROUP == 0) row_scales = load_row_scales(scales, tile, lane);
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
        const int r = k / 2 % 2 * 2 + upper;
        const Scaling<S> own = scaling(held, row_scales, i, r, lane);
        scale_pair(numbers(held, i, k / 4, r), own.scale, own.minimum, values + k);
      }
      store_elements(values, weight + size_t(row) * in_size + column);
    }
  }
}
