// Products of a weight with 1 to 8 rows of activations, as decoding needs them, with what stands
// before them (RMSNorm, where NORM) and behind:  out[m] = epilogue(weight norm(x[m]))
//
//   x            [num_rows, in_size]   T, contiguous like all others, vector-aligned
//   norm_weight  [in_size]             T, read where NORM is set
//   weight       [out_size, in_size]   T; for kSwiglu [2 * out_size, in_size], gate first
//   bias         [rows of weight]      T, or null
//   out          [num_rows, out_size]  T, not for kFloat32:
//                  kStore   out = product + bias
//                  kAdd     out = (out + bias, rounded) + product
//                  kSwiglu  out = silu(gate) * up, gate and up rounded before
//   logits       [num_rows, out_size]  float32, the product, for kFloat32 alone
//
//   grid    any number of blocks: a tile is two rows of the weight, of gate and up one each, and
//           blocks take as many tiles as they have slots in turn
//   block   32 to 256 threads in slots of slot_threads; thread t of a slot reads vectors t,
//           t + slot_threads, ... of both rows
//   memory  reads weight once; bandwidth-bound at 1 flop per byte and row of x. 8 vectors of each
//           thread are on their way, a next one asked for when one was used: also while x is
//           normed, and while a tile's sums are added up. x is read from L1; NORM keeps
//           num_rows + 1 rows of in_size in dynamic shared memory
//   needs   1 <= num_rows <= ROWS, in_size a multiple of 16 bytes where WHOLE (else vectors are
//           one element), slot_threads a power of two from 32 that divides the block's, products
//           that an int counts, and elements of weight that an unsigned counts
//
// The order of each sum depends on in_size, WHOLE and slot_threads, and on nothing else: not on
// num_rows, ROWS, grid or block. The launcher chooses slot_threads by the shape of the weight, so
// what a row of x gives never depends on its neighbours.
#include <ptx.cuh>

#include "few_rows.cuh"

constexpr int kThreads = 256;
constexpr int kMaxWarps = 8;
constexpr int kRows = 2;   // of the weight in a tile
constexpr int kSteps = 4;  // vectors of each that a thread has on their way

// The unsigned type of a size in bytes, for loads that Vec has no instruction for.
template <int BYTES>
struct Word;
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned;
};
template <>
struct Word<16> {
  using Type = uint4;
};

template <typename V>
using WordOf = typename Word<sizeof(V)>::Type;

template <typename T>
constexpr bool kIsBfloat16 = false;
template <>
constexpr bool kIsBfloat16<__nv_bfloat16> = true;

// The elements of a vector's words as float.
template <typename T, int LANES>
__device__ inline void unpack(WordOf<Vec<T, LANES>> words, float (&values)[LANES]) {
  if constexpr (kIsBfloat16<T> && LANES > 1) {
    // One instruction each; cuda_bf16.h takes two for the upper half of a word.
    const auto* bits = reinterpret_cast<const unsigned*>(&words);
#pragma unroll
    for (int k = 0; k < LANES / 2; ++k) {
      values[2 * k] = __uint_as_float(bits[k] << 16);
      values[2 * k + 1] = __uint_as_float(bits[k] & 0xffff0000u);
    }
  } else {
    const auto* elements = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int k = 0; k < LANES; ++k) values[k] = float(elements[k]);
  }
}

// The sums of N values over the warp, in the order of warp_sum; lane l returns that of value
// l * N / 32. Each step gives half of the values away for the other half of the lanes.
template <int N>
__device__ inline float warp_sums(float (&values)[N]) {
  const int lane = threadIdx.x % kWarpSize;
  int kept = N;
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const bool upper = lane & offset;
    const int half = kept / 2;
    if (half == 0) values[0] += __shfl_xor_sync(kFullMask, values[0], offset);
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
      if (k >= half) break;
      const float given = upper ? values[k] : values[k + half];
      const float own = upper ? values[k + half] : values[k];
      values[k] = own + __shfl_xor_sync(kFullMask, given, offset);
    }
    kept = half ? half : 1;
  }
  return values[0];
}

// The sum that a lane has of a finished tile: its place in out, and what is added to it.
struct Value {
  int at;  // -1 where the lane has nothing to store
  float addend;
};

template <typename T, int ROWS>
__device__ inline Value value_of_lane(int first, int num_rows, int out_size, const T* bias,
                                      const T* out, int epilogue) {
  constexpr int kLanesEach = kWarpSize / (kRows * ROWS);
  const int lane = threadIdx.x % kWarpSize;
  const int r = lane / kLanesEach / ROWS, m = lane / kLanesEach % ROWS;
  const bool up = epilogue == kSwiglu && r == 1;
  const int output = up ? first : first + r;
  const bool wanted = lane % kLanesEach == 0 && m < num_rows && output < out_size;
  Value value = {wanted && !up ? m * out_size + output : -1, 0.0f};
  if (wanted && epilogue == kAdd) value.addend = float(out[value.at]);
  if (wanted && bias)
    value.addend = float(T(value.addend + float(bias[up ? out_size + output : output])));
  return value;
}

// A whole warp calls it; of gate and up, the lane of up is kWarpSize / 2 above that of gate.
template <typename T>
__device__ inline void store(Value value, float sum, T* out, float* logits, int epilogue) {
  T result = T(sum + value.addend);
  if (epilogue == kSwiglu) {
    const float up = __shfl_xor_sync(kFullMask, float(result), kWarpSize / 2);
    result = T(silu(float(result)) * up);
  }
  if (value.at < 0) return;
  if (epilogue == kFloat32)
    logits[value.at] = sum;
  else
    out[value.at] = result;
}

template <typename T, bool WHOLE, int ROWS, bool NORM>
__global__ void __launch_bounds__(kThreads, ROWS == 1 ? 3 : 2)
    matvec(const T* x, const T* norm_weight, const T* weight, const T* bias, T* out, float* logits,
           int num_rows, int in_size, int out_size, float eps, int slot_threads, int epilogue) {
  constexpr int kLanes = WHOLE ? 16 / sizeof(T) : 1;
  using Words = WordOf<Vec<T, kLanes>>;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float partial[2][kMaxWarps][kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int slot_log2 = __ffs(slot_threads) - 1;
  const int from = threadIdx.x & (slot_threads - 1);
  const bool first_warp = from < kWarpSize;
  const int num_vecs = in_size / kLanes;
  const int tile_outputs = epilogue == kSwiglu ? 1 : kRows;
  const int block_outputs = int(blockDim.x) * tile_outputs >> slot_log2;
  const int grid_outputs = gridDim.x * block_outputs;

  unsigned rows[kRows];  // where the tile's begin, in vectors
  Words w[kSteps][kRows];
  const auto point_at = [&](int first) {
    // An odd number of rows ends with the last one twice; its second sums are not stored.
    const int second = epilogue == kSwiglu ? out_size + first : min(first + 1, out_size - 1);
    rows[0] = unsigned(first) * num_vecs + from;
    rows[1] = unsigned(second) * num_vecs + from;
  };
  const auto load = [&](int step, int first, int end) {
    const int i = first + step * slot_threads;
    if (from + i >= end) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      w[step][r] = __ldcs(reinterpret_cast<const Words*>(weight) + (rows[r] + i));
  };

  allow_next();
  int block = blockIdx.x * block_outputs;  // the first output of its slots
  int tile = block + (threadIdx.x >> slot_log2) * tile_outputs;
  int end = tile < out_size ? num_vecs : 0;  // a tile past the last has no vectors
  point_at(tile);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) load(step, 0, end);
  wait_for_previous();  // the kernel ahead has not written the weight: `early` of the launch

  const auto* x_words = reinterpret_cast<const Words*>(x) + from;
  if (NORM) {
    auto* staged = reinterpret_cast<Vec<T, kLanes>*>(shared);
    stage_normed<T, kLanes, ROWS>(x, norm_weight, staged, num_rows, in_size, eps);
    x_words = reinterpret_cast<const Words*>(shared) + from;
  }

  for (int parity = 0; block < out_size; block += grid_outputs, parity ^= 1) {
    Value value = {-1, 0.0f};  // asked for early, its addend has a latency of its own
    if (first_warp) value = value_of_lane<T, ROWS>(tile, num_rows, out_size, bias, out, epilogue);
    float sums[kRows * ROWS] = {};
    bool last = false;
    for (int first = 0; !last;) {
      int next = first + kSteps * slot_threads, next_end = end;
      last = next >= end;
      if (last) {  // the vectors to load next are of another tile
        tile += grid_outputs;
        next = 0;
        next_end = tile < out_size ? num_vecs : 0;
        point_at(tile);
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int i = first + step * slot_threads;
        if (from + i < end) {
#pragma unroll
          for (int m = 0; m < ROWS; ++m) {
            float x_values[kLanes];
            unpack<T>(x_words[(m < num_rows ? m * num_vecs : 0) + i], x_values);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              float w_values[kLanes];
              unpack<T>(w[step][r], w_values);
#pragma unroll
              for (int k = 0; k < kLanes; ++k)
                sums[r * ROWS + m] = fmaf(w_values[k], x_values[k], sums[r * ROWS + m]);
            }
          }
        }
        load(step, next, next_end);
      }
      first = next;
      end = next_end;
    }

    float sum = warp_sums(sums);
    if (slot_threads > kWarpSize) {
      partial[parity][warp][lane] = sum;
      __syncthreads();  // partials are there, and those of the other parity have been read
      for (int w = 1; first_warp && w < slot_threads / kWarpSize; ++w)
        sum += partial[parity][warp + w][lane];
    }
    if (first_warp) store(value, sum, out, logits, epilogue);
  }
}
