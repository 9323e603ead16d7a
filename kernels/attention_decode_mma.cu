// Attention of sequences with one new token, as attention_decode.cu, on tensor cores
// (Flash-Decoding: Dao, Haziza, Massa, Sizov, 2023):  out = softmax(q k^T * scale + mask) v
//
//   arrays  those of attention_decode; attention_merge adds the partitions up
//
//   grid    num_partitions x (num_kv_heads * head_tiles) x num_seqs blocks, as attention_decode's
//           with ROWS = 8
//   block   256 threads; warp w owns 32 keys of the partition's 256, and all of the 8 heads
//   memory  k and v are read once for 8 heads, from memory to registers, and every lane has what
//           the tensor cores want of it: no shared memory but to add the warps up; bandwidth-bound
//   needs   sm_80; HEAD_DIM % 32 == 0, 32 <= HEAD_DIM <= 128, scale > 0, head_tiles =
//           ceil(group / 8), q_stride % 8 == 0, arrays 16-byte aligned, num_partitions * 256 >=
//           each context
//
// Both products are transposed, so that keys and elements fill the 16 rows of mma, and heads its 8
// columns: scores^T = k q^T, out^T = v^T weights^T. With g = lane / 4 and t = lane % 4 a lane has
//   of k  of keys g and g + 8 of each 16, 8 neighbours of each 32 elements, from 8 t on. mma asks
//         for elements 2t, 2t + 1, 2t + 8, 2t + 9 of each 16; q has its elements in the same order
//   of v  of keys 2t, 2t + 1, 2t + 8, 2t + 9 of each 16, neighbours from their g-th share on. Of
//         two keys the elements become pairs; rows g and g + 8 of mma are neighbours here
// A warp scores all of its keys before it weighs them: there is one softmax, and nothing decays.
#include <ptx.cuh>

#include "attention_split.cuh"
#include "pairs.cuh"

constexpr int kWarps = 8;
constexpr int kWarpKeys = kPartition / kWarps;
static_assert(kWarpKeys == kWarpSize, "a key is a lane's");
constexpr int kSteps = kWarpKeys / 16;
constexpr int kHeads = 8;  // of a block

// Two of the four numbers of a word as T: bytes 0 and 2, or 1 and 3.
template <typename T>
__device__ inline PairOf<T> every_other(unsigned word, int first) {
  if constexpr (Pair<T>::kOffset == 1024.0f) {
    const int bytes = first == 0 ? 0x5250 : 0x5351;
    const unsigned bits = __byte_perm(word ^ 0x80808080u, Pair<T>::kBase, bytes);
    return from_base<T>(bits, 128.0f);
  } else {
    // bfloat16 has 7 bits above 128; the eighth, the sign, makes it 256 that is subtracted.
    const unsigned own = first == 0 ? word : word >> 8;
    const unsigned bits = and_or(own, 0x007f007fu, Pair<T>::kBase);
    const unsigned less = and_or(own, 0x00800080u, Pair<T>::kBase | 0x80008000u);
    return __hadd2(reinterpret_cast<const PairOf<T>&>(bits),
                   reinterpret_cast<const PairOf<T>&>(less));
  }
}

// SIZE neighbours of a cached row as pairs of T; zeros where the row does not exist. Of 8 bits
// without their scale, and of each four the first and third, then the second and fourth.
template <typename T, int SIZE, typename E>
__device__ inline void load_run(const E* from, bool exists, unsigned (&pairs)[SIZE / 2]) {
  using Words = Vec<unsigned, SIZE * sizeof(E) / 4>;
  Words words = {};
  if (exists) words = *reinterpret_cast<const Words*>(from);
#pragma unroll
  for (int i = 0; i < SIZE / 2; ++i) {
    if constexpr (sizeof(E) == 1) {
      const PairOf<T> pair = every_other<T>(words.lane[i / 2], i % 2);
      pairs[i] = reinterpret_cast<const unsigned&>(pair);
    } else {
      pairs[i] = words.lane[i];
    }
  }
}

// Of the warp's lanes with the same t.
__device__ inline float max_of_keys(float value) {
  for (int offset = 4; offset < kWarpSize; offset *= 2)
    value = fmaxf(value, __shfl_xor_sync(kFullMask, value, offset));
  return value;
}

__device__ inline float sum_of_keys(float value) {
  for (int offset = 4; offset < kWarpSize; offset *= 2)
    value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

template <typename T, int HEAD_DIM, bool INT8>
__global__ void __launch_bounds__(kWarps* kWarpSize, 2)
    attention_decode_mma(const T* q, const Cached<T, INT8>* k_cache, const Cached<T, INT8>* v_cache,
                         const float* k_scales, const float* v_scales, const int* block_tables,
                         const int* cu_seqlens_q, const int* context_lens, T* out,
                         float* partial_out, float* partial_softmax, int max_blocks, int block_size,
                         int num_kv_heads, int group, long long q_stride, float scale, int window) {
  constexpr int kRun = HEAD_DIM % 64 == 0 ? 8 : 4;  // neighbours of v that a lane has
  constexpr int kStride = HEAD_DIM + 2;             // lanes that store together hit few banks twice
  __shared__ __align__(8) float all_sums[kWarps][kHeads][kStride];
  __shared__ float warp_max_of[kWarps][kHeads], warp_sum_of[kWarps][kHeads];

  allow_next();
  wait_for_previous();
  const Share<kHeads> share(cu_seqlens_q, context_lens, num_kv_heads, group, window);
  if (!share.has_work) return;
  const Sight& sight = share.sight;
  const int partition = blockIdx.x, kv_head = share.kv_head;
  const PagedHead keys = {block_tables + (size_t)blockIdx.z * max_blocks, block_size, num_kv_heads,
                          kv_head};
  const int lane = threadIdx.x % kWarpSize, g = lane / 4, t = lane % 4;
  const int warp = threadIdx.x / kWarpSize;

  // Where the warp's keys are, a lane's; -1 where the sequence sees none.
  const int position = partition * kPartition + warp * kWarpKeys + lane;
  const int slot = sight.sees(position) ? keys.slot(position) : -1;
  float k_scale = 1.0f, v_scale = 0.0f;
  if (INT8 && slot >= 0) {
    const size_t at = scale_index(slot, block_size, num_kv_heads, kv_head);
    k_scale = k_scales[at], v_scale = v_scales[at];
  }
  const auto row_of = [&](const Cached<T, INT8>* cache, int from) {
    return cache + ((size_t)max(from, 0) * num_kv_heads + kv_head) * HEAD_DIM;
  };

  unsigned q_pairs[HEAD_DIM / 32][4];
  const T* const q_row = q + share.token * q_stride + (size_t)(share.first_head + g) * HEAD_DIM;
#pragma unroll
  for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk)
    load_run<T, 8>(q_row + chunk * 32 + t * 8, g < share.num_rows, q_pairs[chunk]);
  if (INT8) {
#pragma unroll
    for (auto& pairs : q_pairs)
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const unsigned first = pairs[i], second = pairs[i + 1];
        pairs[i] = __byte_perm(first, second, 0x5410);
        pairs[i + 1] = __byte_perm(first, second, 0x7632);
      }
  }

  float scores[kSteps][4] = {};  // of keys g, g, g + 8, g + 8 and heads 2t, 2t + 1, twice
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int low = __shfl_sync(kFullMask, slot, step * 16 + g);
    const int high = __shfl_sync(kFullMask, slot, step * 16 + g + 8);
    const auto* const low_row = row_of(k_cache, low) + t * 8;
    const auto* const high_row = row_of(k_cache, high) + t * 8;
#pragma unroll
    for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk) {
      unsigned a[4], b[4];
      load_run<T, 8>(low_row + chunk * 32, low >= 0, a);
      load_run<T, 8>(high_row + chunk * 32, high >= 0, b);
#pragma unroll
      for (int half = 0; half < 4; half += 2) {
        const unsigned k[4] = {a[half], b[half], a[half + 1], b[half + 1]};
        mma<T>(scores[step], k, q_pairs[chunk][half], q_pairs[chunk][half + 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float factor = scale * kLog2E;
      if (INT8) factor *= __shfl_sync(kFullMask, k_scale, step * 16 + g + i / 2 * 8);
      scores[step][i] = (i < 2 ? low : high) >= 0 ? scores[step][i] * factor : -infinity();
    }
  }

  // The weights, relative to the largest; in 8 bits times the scale of v, relative to the largest.
  float highest[2] = {-infinity(), -infinity()}, total[2] = {};
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) highest[i % 2] = fmaxf(highest[i % 2], scores[step][i]);
  for (float& own : highest) own = max_of_keys(own);
  const float largest_scale = INT8 ? warp_max(v_scale) : 1.0f;
  if (INT8 && largest_scale > 0.0f) v_scale /= largest_scale;
  unsigned weights[kSteps][2];
#pragma unroll
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      float weight[2];
#pragma unroll
      for (int head = 0; head < 2; ++head) {
        const float reference = highest[head] == -infinity() ? 0.0f : highest[head];
        weight[head] = exp2_approx(scores[step][2 * upper + head] - reference);
        total[head] += weight[head];
        if (INT8) weight[head] *= __shfl_sync(kFullMask, v_scale, step * 16 + g + upper * 8);
      }
      weights[step][upper] = transpose(pack<T>(weight[0], weight[1]));
    }

  float sums[HEAD_DIM / 16][4] = {};  // of neighbours 2i, 2i, 2i + 1, 2i + 1; heads as above
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const Cached<T, INT8>* rows[4];
    bool exists[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int from = __shfl_sync(kFullMask, slot, step * 16 + i / 2 * 8 + 2 * t + i % 2);
      rows[i] = row_of(v_cache, from) + g * kRun;
      exists[i] = from >= 0;
    }
#pragma unroll
    for (int chunk = 0; chunk < HEAD_DIM / (8 * kRun); ++chunk) {
      unsigned v[4][kRun / 2];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_run<T, kRun>(rows[i] + chunk * 8 * kRun, exists[i], v[i]);
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) {
        const unsigned a[4] = {
            __byte_perm(v[0][i], v[1][i], 0x5410), __byte_perm(v[0][i], v[1][i], 0x7632),
            __byte_perm(v[2][i], v[3][i], 0x5410), __byte_perm(v[2][i], v[3][i], 0x7632)};
        mma<T>(sums[chunk * (kRun / 2) + i], a, weights[step][0], weights[step][1]);
      }
    }
  }

#pragma unroll
  for (int head = 0; head < 2; ++head) {
    total[head] = sum_of_keys(total[head]);
    if (g == 0) {
      warp_max_of[warp][2 * t + head] = highest[head];
      warp_sum_of[warp][2 * t + head] = total[head];
    }
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 16; ++i) {
      const int in_run = i % (kRun / 2);
      float* const own = &all_sums[warp][2 * t + head][(i / (kRun / 2) * 8 + g) * kRun];
      const int first = INT8 ? in_run / 2 * 4 + in_run % 2 : 2 * in_run;
      own[first] = sums[i][head] * largest_scale;
      own[first + (INT8 ? 2 : 1)] = sums[i][2 + head] * largest_scale;
    }
  }
  __syncthreads();  // the sums of all warps are complete

  const auto sum_of = [&](int w, int row, int element) { return all_sums[w][row][element]; };
  merge_warps<HEAD_DIM>(share, warp_max_of, warp_sum_of, sum_of, out, partial_out, partial_softmax);
}
