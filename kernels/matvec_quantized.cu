// matvec.cu with a quantized weight, on tensor cores, which the integers go to as they are:
//
//   x, norm_weight, bias, out, logits, and what becomes of a product: as in matvec.cu
//   quants, scales  a quantized matrix as packed.cuh has it, `paired` for kSwiglu
//
//   grid    as many blocks as there are tiles of 16 rows of the weight (for kSwiglu 8 of gate and
//           8 of up), over the tiles of a block
//   block   256 threads: 1 << split_log2 warps share a tile, and take its blocks of columns in turn
//   memory  reads the weight once; 4 loads of 16 bytes of each thread are on their way, also while
//           x is normed. x is read from L1; NORM keeps num_rows + 1 rows of in_size in dynamic
//           shared memory
//   needs   sm_80, T of 16 bits, 1 <= num_rows <= 8 * ROW_TILES, in_size a multiple of 32, products
//           that an int counts
//
// The operands are the weights rounded to T, those that `dequantize` gives to products with more
// rows. The order of each sum depends on in_size, BITS and split_log2 alone: not on num_rows or
// ROW_TILES.
#include "few_rows.cuh"
#include "packed.cuh"

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSteps = 4;  // blocks of columns that a warp has on their way

template <typename T>
__device__ inline unsigned bits_of(PairOf<T> pair) {
  return reinterpret_cast<const unsigned&>(pair);
}

template <typename T, bool HAS_MINIMA>
__device__ inline PairOf<T> weights(PairOf<T> numbers, Scaling<T> own) {
  if constexpr (HAS_MINIMA) return __hfma2(numbers, twice(own.scale), twice(own.minimum));
  return __hmul2(numbers, twice(own.scale));
}

// One value's way out: of row m of x and output `at` of out_size; `up` for kSwiglu.
template <typename T>
__device__ inline void finish(float sum, float up_sum, int m, int output, const T* bias, T* out,
                              float* logits, int out_size, int out_stride, int epilogue) {
  const int at = m * out_stride + output;
  if (epilogue == kFloat32) {
    logits[at] = sum;
    return;
  }
  float addend = epilogue == kAdd ? float(out[at]) : 0.0f;
  if (bias) addend = float(T(addend + float(bias[output])));
  T result = T(sum + addend);
  if (epilogue == kSwiglu) {
    const float up_addend = bias ? float(T(float(bias[out_size + output]))) : 0.0f;
    result = T(silu(float(result)) * float(T(up_sum + up_addend)));
  }
  out[at] = result;
}

template <typename T, int BITS, int GROUP, int ROW_TILES, bool NORM>
__global__ void __launch_bounds__(kThreads, ROW_TILES == 4 ? 1 : 2)
    matvec_quantized(const T* x, const T* norm_weight, const unsigned char* quants, const T* scales,
                     const T* bias, T* out, float* logits, int num_rows, int in_size, int out_size,
                     int out_stride, float eps, int split_log2, int epilogue) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float partial[kWarps][4 * ROW_TILES][kWarpSize];
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  const int warp = threadIdx.x / kWarpSize;
  const int split = 1 << split_log2, part = warp & (split - 1);
  const bool paired = epilogue == kSwiglu;
  const int weight_rows = paired ? 2 * out_size : out_size;
  const int num_tiles = (weight_rows + kTileRows - 1) / kTileRows;
  const int tile = blockIdx.x * (kWarps >> split_log2) + (warp >> split_log2);
  const int num_blocks = (in_size + kColumns<BITS> - 1) / kColumns<BITS>;
  const int end = tile < num_tiles ? num_blocks : 0;

  allow_next();
  Held<T, BITS, GROUP> held[kSteps];
  const auto load = [&](int step, int block) {
    if (block < end) load_block(held[step], quants, scales, tile, num_blocks, block, lane);
  };
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load(step, part + step * split);

  Vec<T, 2> row_scales;
  if constexpr (GROUP == 0) {
    if (end) row_scales = load_row_scales(scales, tile, lane);
  }
  wait_for_previous();  // nobody writes a weight or its scales

  if (NORM) {
    auto* staged = reinterpret_cast<Vec<T>*>(shared);
    stage_normed<T, Vec<T>::kLanes, 8>(x, norm_weight, staged, num_rows, in_size, eps);
    x = reinterpret_cast<const T*>(shared);
  }

  const T*
      x_rows[ROW_TILES];  // past the last row it is the last again; what it gives is not stored
#pragma unroll
  for (int n = 0; n < ROW_TILES; ++n)
    x_rows[n] = x + size_t(min(n * 8 + g, num_rows - 1)) * in_size + t * 8;

  float sums[ROW_TILES][4] = {};
  for (int first = part; first < end; first += kSteps * split) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int block = first + step * split;
      if (block >= end) break;
#pragma unroll
      for (int i = 0; i < kGroups<BITS>; ++i) {
        unsigned a[2][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const Scaling<T> own = scaling(held[step], row_scales, i, r, lane);
#pragma unroll
          for (int h = 0; h < 2; ++h)
            a[h][r] =
                bits_of<T>(weights<T, kHasMinima<BITS, GROUP>>(numbers(held[step], i, h, r), own));
        }
        // Beyond the last column weights are zeros, whatever they meet.
        const int column = min(block * kColumns<BITS> + i * 32, in_size - 32);
#pragma unroll
        for (int n = 0; n < ROW_TILES; ++n) {
          const uint4 own = *reinterpret_cast<const uint4*>(x_rows[n] + column);
          mma<T>(sums[n], a[0], own.x, own.y);
          mma<T>(sums[n], a[1], own.z, own.w);
        }
      }
      load(step, block + kSteps * split);
    }
  }

  // All sums by way of shared memory, so that one loop stores any row.
#pragma unroll
  for (int n = 0; n < ROW_TILES; ++n)
#pragma unroll
    for (int k = 0; k < 4; ++k) partial[warp][n * 4 + k][lane] = sums[n][k];
  if (split > 1) __syncthreads();  // every warp's part is there
  if (part != 0 || tile >= num_tiles) return;
  const int low = row_of_tile(tile, g, false, weight_rows, paired);
  const int high = row_of_tile(tile, g, true, weight_rows, paired);
  const auto sum_of = [&](int k) {
    float sum = partial[warp][k][lane];
    for (int p = 1; p < split; ++p) sum += partial[warp + p][k][lane];
    return sum;
  };
#pragma unroll 1
  for (int i = 0; i < 2 * ROW_TILES; ++i) {
    const int m = i / 2 * 8 + 2 * t + i % 2, k = i / 2 * 4 + i % 2;
    if (m >= num_rows) continue;
    const float sum = sum_of(k), upper_sum = sum_of(k + 2);
    if (low >= 0) finish(sum, upper_sum, m, low, bias, out, logits, out_size, out_stride, epilogue);
    if (high >= 0 && !paired)
      finish(upper_sum, 0.0f, m, high, bias, out, logits, out_size, out_stride, epilogue);
  }
}
