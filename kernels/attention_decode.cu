// Attention of sequences with one new token, over the paged cache, split along the keys
// (Flash-Decoding: Dao, Haziza, Massa, Sizov, 2023):  out = softmax(q k^T * scale + mask) v
//
// attention_decode: one KV head over one partition of 256 keys.
//
//   q                 [num_tokens, num_heads, HEAD_DIM]  T; heads contiguous, tokens q_stride apart
//   k_cache, v_cache  [num_blocks, block_size, num_kv_heads, HEAD_DIM]  T, or int8 where INT8
//   k_scales, v_scales  as in cache.cuh, where INT8
//   block_tables      [num_seqs, max_blocks]             int32
//   cu_seqlens_q      [num_seqs + 1]                     int32
//   context_lens      [num_seqs]                         int32
//   out               [num_tokens, num_heads, HEAD_DIM]  T, contiguous
//   partial_out       [num_seqs, num_heads, num_partitions, HEAD_DIM]  float32, not divided yet
//   partial_softmax   [num_seqs, num_heads, num_partitions, 2]         float32: maximum, sum
//
//   grid    num_partitions x (num_kv_heads * head_tiles) x num_seqs blocks; the query heads that
//           share a KV head are served together, ROWS at a time. Partitions outside a sequence's
//           sight and sequences with more than one new token have nothing to do. A sequence with
//           one partition goes to out at once.
//   block   128 threads; warp w owns tiles w and w + 4 of the partition's 8 tiles of 32 keys.
//           Lane l owns key l in q k^T, and a vector of every few keys in the product with v.
//   memory  k and v are read once for ROWS heads; bandwidth-bound. k passes through shared
//           memory in chunks of 16 vectors of a row; at most 48 KiB of shared memory
//   needs   HEAD_DIM % 8 == 0, 8 <= HEAD_DIM <= 256, ROWS <= 8, head_tiles = ceil(group / ROWS),
//           q_stride % 8 == 0, arrays 16-byte aligned, num_partitions * 256 >= each context
//
// attention_merge: out = sum of the partitions, for sequences with more than one.
//
//   grid    num_heads x num_seqs blocks
//   block   head_dim threads, rounded up to whole warps; thread t owns element t
//   memory  reads what was written; short
//   needs   head_dim <= 1024
//
// attention_decode is for float32, for devices without bfloat16's tensor cores and for other head
// sizes than attention_decode_mma.cu takes.
#include <ptx.cuh>

#include "attention_split.cuh"

constexpr int kWarps = 4;
// Of a cache of E.
template <typename E, int HEAD_DIM, int ROWS>
struct Layout {
  static constexpr int kLanes = kCacheLanes<E>;
  using Vector = Vec<E, kLanes>;
  static constexpr int kRowVecs = HEAD_DIM / kLanes;
  // k in shared memory: a chunk of each warp's 32 rows. The stride is odd, so that 32 rows read
  // at once hit all banks evenly.
  static constexpr int kChunkVecs = kRowVecs < 16 ? kRowVecs : 16;
  static constexpr int kStride = kChunkVecs | 1;
  static constexpr int kStagedVecs = kTileKeys * kStride;
  // v in registers: kKeys keys at once, kVecs vectors of a key per lane.
  static constexpr int kKeys = kRowVecs < kWarpSize ? kWarpSize / kRowVecs : 1;
  static constexpr int kVecs = (kRowVecs + kWarpSize - 1) / kWarpSize;
  // The sums of all warps meet in shared memory, where k was before.
  static constexpr int kNumSums = kWarps * kKeys;
  static constexpr int kStagedBytes = kWarps * kStagedVecs * int(sizeof(Vector));
  static constexpr int kSumBytes = kNumSums * ROWS * HEAD_DIM * 4;
  static constexpr int kBytes = kStagedBytes > kSumBytes ? kStagedBytes : kSumBytes;
};

// The rows of a KV head in the cache, as vectors.
template <typename E, int HEAD_DIM>
struct Rows {
  using Vector = Vec<E, kCacheLanes<E>>;
  const E* cache;
  int num_kv_heads, kv_head;

  __device__ const Vector* at(int slot) const {
    const size_t row = (size_t)max(slot, 0) * num_kv_heads + kv_head;
    return reinterpret_cast<const Vector*>(cache + row * HEAD_DIM);
  }
};

// q k^T of the lane's key in the tile, which is in `slot`; those in slot -1 are not read.
template <typename E, int HEAD_DIM, int ROWS>
__device__ inline void score_tile(Rows<E, HEAD_DIM> k_rows, int slot, const float* q_rows,
                                  Vec<E, kCacheLanes<E>>* staged, float* scores) {
  using L = Layout<E, HEAD_DIM, ROWS>;
  using Vector = typename L::Vector;
  constexpr int kBatch = L::kChunkVecs < 8 ? L::kChunkVecs : 8;  // on their way at once
  const int lane = threadIdx.x % kWarpSize;
  for (int row = 0; row < ROWS; ++row) scores[row] = 0.0f;
#pragma unroll 1
  for (int chunk = 0; chunk < L::kRowVecs; chunk += L::kChunkVecs) {
    __syncwarp();  // the chunk before this one, or the last tile's weights, are still being read
#pragma unroll 1
    for (int first = 0; first < L::kChunkVecs; first += kBatch) {
      Vector held[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int place = (first + i) * kWarpSize + lane;
        const int key = place / L::kChunkVecs, vec = chunk + place % L::kChunkVecs;
        const int from = __shfl_sync(kFullMask, slot, key);
        const bool exists = first + i < L::kChunkVecs && vec < L::kRowVecs && from >= 0;
        held[i] = load_if(exists, k_rows.at(from) + vec);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int place = (first + i) * kWarpSize + lane;
        if (first + i < L::kChunkVecs)
          staged[place / L::kChunkVecs * L::kStride + place % L::kChunkVecs] = held[i];
      }
    }
    __syncwarp();  // the chunk is complete
    const int num_vecs = min(L::kChunkVecs, L::kRowVecs - chunk);
#pragma unroll 2
    for (int vec = 0; vec < num_vecs; ++vec) {
      float k[L::kLanes];
      unpack(staged[lane * L::kStride + vec], k);
#pragma unroll
      for (int row = 0; row < ROWS; ++row)
#pragma unroll
        for (int part = 0; part < L::kLanes / 4; ++part) {
          const auto q4 = *reinterpret_cast<const Vec<float>*>(
              q_rows + row * HEAD_DIM + (chunk + vec) * L::kLanes + part * 4);
          for (int i = 0; i < 4; ++i) scores[row] += q4.lane[i] * k[part * 4 + i];
        }
    }
  }
}

template <typename T, int HEAD_DIM, int ROWS, bool INT8>
__global__ void __launch_bounds__(kWarps* kWarpSize, 2)
    attention_decode(const T* q, const Cached<T, INT8>* k_cache, const Cached<T, INT8>* v_cache,
                     const float* k_scales, const float* v_scales, const int* block_tables,
                     const int* cu_seqlens_q, const int* context_lens, T* out, float* partial_out,
                     float* partial_softmax, int max_blocks, int block_size, int num_kv_heads,
                     int group, long long q_stride, float scale, int window) {
  using E = Cached<T, INT8>;
  using L = Layout<E, HEAD_DIM, ROWS>;
  using Vector = typename L::Vector;
  __shared__ __align__(16) unsigned char storage[L::kBytes];
  __shared__ __align__(16) float q_rows[ROWS * HEAD_DIM];
  __shared__ float weights[kWarps][ROWS][kTileKeys];
  __shared__ float warp_max_of[kWarps][ROWS], warp_sum_of[kWarps][ROWS];

  allow_next();
  wait_for_previous();
  const Share<ROWS> share(cu_seqlens_q, context_lens, num_kv_heads, group, window);
  if (!share.has_work) return;
  const Sight& sight = share.sight;
  const int partition = blockIdx.x, kv_head = share.kv_head;
  const PagedHead keys = {block_tables + (size_t)blockIdx.z * max_blocks, block_size, num_kv_heads,
                          kv_head};
  const Rows<E, HEAD_DIM> k_rows = {k_cache, num_kv_heads, kv_head};
  const Rows<E, HEAD_DIM> v_rows = {v_cache, num_kv_heads, kv_head};
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;

  for (int i = threadIdx.x; i < ROWS * HEAD_DIM; i += kWarps * kWarpSize) {
    const T* q_row = q + share.token * q_stride + (size_t)share.first_head * HEAD_DIM;
    q_rows[i] = i < share.num_rows * HEAD_DIM ? float(q_row[i]) * (scale * kLog2E) : 0.0f;
  }
  __syncthreads();  // q_rows is complete

  auto* staged = reinterpret_cast<Vector*>(storage) + warp * L::kStagedVecs;
  OnlineSoftmax softmax[ROWS];
  float sums[ROWS][L::kVecs][L::kLanes] = {};
  for (OnlineSoftmax& row : softmax) row = {-infinity(), 0.0f};
  // Of the keys that the warp takes at once in the product with v, this lane's, and its part.
  const int key_slot = L::kRowVecs < kWarpSize ? lane / L::kRowVecs : 0;
  const int first_vec = L::kRowVecs < kWarpSize ? lane % L::kRowVecs : lane;

  for (int tile = warp; tile < kPartition / kTileKeys; tile += kWarps) {
    const int first_key = partition * kPartition + tile * kTileKeys;
    if (first_key + kTileKeys <= sight.begin || first_key >= sight.end) continue;
    const bool visible = sight.sees(first_key + lane);
    const int slot = visible ? keys.slot(first_key + lane) : -1;
    float k_scale = 1.0f, v_scale = 1.0f;
    if (INT8 && visible) {
      const size_t at = scale_index(slot, block_size, num_kv_heads, kv_head);
      k_scale = k_scales[at], v_scale = v_scales[at];
    }
    float scores[ROWS];
    score_tile<E, HEAD_DIM, ROWS>(k_rows, slot, q_rows, staged, scores);
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
      float decay;
      const float score = visible ? scores[row] * k_scale : -infinity();
      weights[warp][row][lane] = softmax[row].add(score, &decay) * v_scale;
      for (auto& vec_sums : sums[row])
        for (float& sum : vec_sums) sum *= decay;
    }
    __syncwarp();  // the weights are complete
#pragma unroll 4
    for (int first = 0; first < kTileKeys; first += L::kKeys) {
      const int key = (first + key_slot) % kTileKeys;
      const int from = __shfl_sync(kFullMask, slot, key);
      const bool exists = key_slot < L::kKeys && first + key_slot < kTileKeys && from >= 0;
#pragma unroll
      for (int part = 0; part < L::kVecs; ++part) {
        const int vec = first_vec + part * kWarpSize;
        float v[L::kLanes];
        unpack(load_if(exists && vec < L::kRowVecs, v_rows.at(from) + vec), v);
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
          for (int k = 0; k < L::kLanes; ++k) sums[row][part][k] += weights[warp][row][key] * v[k];
      }
    }
  }

  __syncthreads();  // no warp reads its staged k any more
  auto* all_sums = reinterpret_cast<float*>(storage);
#pragma unroll
  for (int row = 0; row < ROWS; ++row) {
    const float total = warp_sum(softmax[row].sum);
    if (lane == 0) {
      warp_max_of[warp][row] = softmax[row].max;
      warp_sum_of[warp][row] = total;
    }
    if (key_slot >= L::kKeys) continue;
    float* target = all_sums + ((warp * L::kKeys + key_slot) * ROWS + row) * HEAD_DIM;
#pragma unroll
    for (int part = 0; part < L::kVecs; ++part) {
      const int vec = first_vec + part * kWarpSize;
      if (vec >= L::kRowVecs) continue;
      for (int k = 0; k < L::kLanes; ++k) target[vec * L::kLanes + k] = sums[row][part][k];
    }
  }
  __syncthreads();  // the sums of all warps are complete

  // Each slot of a warp has sums of its own.
  const auto sum_of = [&](int w, int row, int element) {
    float sum = 0.0f;
    for (int key = w * L::kKeys; key < (w + 1) * L::kKeys; ++key)
      sum += all_sums[(key * ROWS + row) * HEAD_DIM + element];
    return sum;
  };
  merge_warps<HEAD_DIM>(share, warp_max_of, warp_sum_of, sum_of, out, partial_out, partial_softmax);
}

template <typename T>
__global__ void attention_merge(const float* partial_out, const float* partial_softmax,
                                const int* cu_seqlens_q, const int* context_lens, T* out,
                                int num_partitions, int head_dim, int window) {
  allow_next();
  wait_for_previous();
  const int head = blockIdx.x, seq = blockIdx.y;
  const int num_heads = gridDim.x;
  const int token = cu_seqlens_q[seq];
  if (cu_seqlens_q[seq + 1] - token != 1) return;
  const Sight sight(context_lens[seq], window);
  if (sight.first_partition == sight.last_partition) return;

  const size_t base = ((size_t)seq * num_heads + head) * num_partitions;
  const auto* softmax = reinterpret_cast<const Vec<float, 2>*>(partial_softmax) + base;
  float highest = -infinity();
  for (int p = sight.first_partition + threadIdx.x; p <= sight.last_partition; p += blockDim.x)
    highest = fmaxf(highest, softmax[p].lane[0]);
  highest = block_max(highest);

  const int element = threadIdx.x;
  if (element >= head_dim) return;
  float sum = 0.0f, total = 0.0f;
#pragma unroll 4
  for (int p = sight.first_partition; p <= sight.last_partition; ++p) {
    const Vec<float, 2> part = softmax[p];
    const float factor = exp2f(part.lane[0] - highest);
    total += factor * part.lane[1];
    sum += factor * partial_out[(base + p) * head_dim + element];
  }
  out[((size_t)token * num_heads + head) * head_dim + element] = T(sum / total);
}
