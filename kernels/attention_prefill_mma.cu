// Attention of sequences with more than one new token, as attention_prefill.cu, on tensor cores
// (FlashAttention-2: Dao, 2023):  out = softmax(q k^T * scale + mask) v
//
//   q                 [num_tokens, num_heads, HEAD_DIM]  T; heads contiguous, tokens q_stride apart
//   k_cache, v_cache  [num_blocks, block_size, num_kv_heads, HEAD_DIM]  T, or int8 where INT8
//   k_scales, v_scales  as in cache.cuh, where INT8
//   block_tables      [num_seqs, max_blocks]             int32
//   cu_seqlens_q      [num_seqs + 1]                     int32
//   context_lens      [num_seqs]                         int32
//   out               [num_tokens, num_heads, HEAD_DIM]  T, contiguous
//
//   grid    (num_tokens * group / kRows + num_seqs) x num_kv_heads blocks, group = num_heads /
//           num_kv_heads. The query heads that share a KV head are packed: row r of a sequence is
//           query r / group, head r % group, and a block owns kRows rows. The last blocks of the
//           longest sight go first. Sequences with one new token are left to attention_decode.
//   block   128 threads; a warp owns 32 rows (16 where HEAD_DIM > 128, whose sums fill the
//           registers): each fragment of k and v is then read from shared memory for two products,
//           without which its 128 bytes a cycle would hold an H100 to half of its rate.
//   memory  k and v are read once per kRows rows, in tiles of kKeys keys. There is one buffer for
//           k and one for v: k of the next tile comes while v is used, and v while k is, so that
//           one copy is always under way (8 bits are expanded to T on the way, by registers: the
//           other block of the multiprocessor has to hide their latency). (kRows + 2 kKeys) * 2 * kStride bytes of dynamic shared
//           memory, 68 KiB at HEAD_DIM 128: two blocks per multiprocessor of sm_80 and sm_90.
//   needs   sm_80; HEAD_DIM % 16 == 0, 16 <= HEAD_DIM <= 256, q_stride % 8 == 0, scale > 0, arrays
//           16-byte aligned
//
// Rows in shared memory are an odd number of 16-byte vectors apart: the 8 rows that ldmatrix reads
// at a time lie in 8 different groups of 4 banks, and so do 8 vectors that are copied into a row.
//
// A key beyond every row's sight is never read. Tiles begin at multiples of kKeys, and one that a
// row does not see changes nothing of the row, to the last bit: its result depends neither on the
// rows it shares a block with nor on where its chunk begins.
#include <ptx.cuh>

#include "attention.cuh"
#include "pairs.cuh"

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

template <int HEAD_DIM>
struct Tile {
  static constexpr int kRowTiles = HEAD_DIM <= 128 ? 2 : 1;  // of 16 rows, a warp's
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kKeys = HEAD_DIM <= 128 ? 64 : 32;
  static constexpr int kVecs = HEAD_DIM / 8;
  static constexpr int kStride = (kVecs | 1) * 8;  // elements from row to row in shared memory
};

// The last sequence whose first block is not after `tile`.
__device__ inline int sequence_of_tile(const int* cu_seqlens_q, int num_seqs, int group, int rows,
                                       int tile) {
  int low = 0, high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    const int first = int((long long)cu_seqlens_q[middle] * group / rows) + middle;
    if (first <= tile)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Where the keys of a tile are, -1 outside a block's sight, and of 8 bits the scales of k and v.
template <int KEYS, bool INT8>
struct TileKeys {
  int slots[KEYS];
  float scales[INT8 ? 2 : 1][INT8 ? KEYS : 1];
};

// Begins to copy a tile of k or v, given where its keys are; those at -1 become zero.
template <typename T, int HEAD_DIM, typename E>
__device__ inline void stage(const E* cache_head, int slot_stride, const int* slots,
                             const float* scales, T* tile) {
  using C = Tile<HEAD_DIM>;
  constexpr int kVectors = C::kKeys * C::kVecs;
  const auto from = [&](int i) {
    return cache_head + (long long)max(slots[i / C::kVecs], 0) * slot_stride + i % C::kVecs * 8;
  };
  const auto to = [&](int i) { return tile + i / C::kVecs * C::kStride + i % C::kVecs * 8; };
  if constexpr (sizeof(E) == 1) {
    constexpr int kBatch = 4;  // on their way at once
#pragma unroll 1
    for (int first = threadIdx.x; first < kVectors; first += kBatch * kThreads) {
      Vec<E, 8> numbers[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int i = first + n * kThreads;
        const bool exists = i < kVectors && slots[i / C::kVecs] >= 0;
        numbers[n] = load_if(exists, reinterpret_cast<const Vec<E, 8>*>(from(exists ? i : 0)));
      }
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int i = first + n * kThreads;
        if (i < kVectors)
          *reinterpret_cast<Vec<T, 8>*>(to(i)) = expanded<T>(numbers[n], scales[i / C::kVecs]);
      }
    }
  } else {
#pragma unroll
    for (int i = threadIdx.x; i < kVectors; i += kThreads)
      copy_async(to(i), from(i), slots[i / C::kVecs] >= 0);
  }
  copy_async_commit();
}

// Running softmax of a lane's rows g and g + 8 of each of its warp's tiles of 16 rows. Max is the
// same in the four lanes of a row, in units of log2; sum is each lane's own share.
template <int ROW_TILES>
struct RowSoftmax {
  float max[ROW_TILES][2], sum[ROW_TILES][2];
};

// Takes in the scores of a tile, -inf where masked: gives their weights as fragments a of mma, and
// in `decay` what all earlier weights must be multiplied by.
template <typename T, int ROW_TILES, int KEYS>
__device__ inline void add(RowSoftmax<ROW_TILES>& rows,
                           const float (&scores)[ROW_TILES][KEYS / 8][4], float scale_log2,
                           unsigned (&weights)[ROW_TILES][KEYS / 16][4],
                           float (&decay)[ROW_TILES][2]) {
#pragma unroll
  for (int tile = 0; tile < ROW_TILES; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = scores[tile][0][2 * half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
        highest = fmaxf(highest, fmaxf(scores[tile][n][2 * half], scores[tile][n][2 * half + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(kFullMask, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(kFullMask, highest, 2));
      const float new_max = fmaxf(rows.max[tile][half], highest * scale_log2);
      const float reference = new_max == -infinity() ? 0.0f : new_max;  // -inf - -inf is NaN
      decay[tile][half] = exp2_approx(rows.max[tile][half] - reference);
      rows.max[tile][half] = new_max;
      float sum = rows.sum[tile][half] * decay[tile][half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
        const float* score = scores[tile][n] + 2 * half;
        const float low = exp2_approx(fmaf(score[0], scale_log2, -reference));
        const float high = exp2_approx(fmaf(score[1], scale_log2, -reference));
        sum += low + high;
        weights[tile][n / 2][n % 2 * 2 + half] = pack<T>(low, high);
      }
      rows.sum[tile][half] = sum;
    }
}

// Two blocks per multiprocessor: while one works on a softmax the other has the tensor cores.
template <typename T, int HEAD_DIM, bool INT8>
__global__ void __launch_bounds__(kThreads, 2)
    attention_prefill_mma(const T* q, const Cached<T, INT8>* k_cache,
                          const Cached<T, INT8>* v_cache, const float* k_scales,
                          const float* v_scales, const int* block_tables, const int* cu_seqlens_q,
                          const int* context_lens, T* out, int num_seqs, int max_blocks,
                          int block_size, int group, long long q_stride, float scale, int window) {
  using C = Tile<HEAD_DIM>;
  constexpr int kPlanners = (INT8 ? 2 : 1) * C::kKeys;  // threads that look where keys are
  extern __shared__ __align__(16) unsigned char shared[];
  T* const q_tile = reinterpret_cast<T*>(shared);
  T* const k_tile = q_tile + C::kRows * C::kStride;
  T* const v_tile = k_tile + C::kKeys * C::kStride;
  __shared__ int positions[C::kRows];
  __shared__ int kept_first_row;  // for the end: until then every register is wanted
  __shared__ TileKeys<C::kKeys, INT8> tile_keys[2];

  const int block = gridDim.x - 1 - blockIdx.x;
  const int seq = sequence_of_tile(cu_seqlens_q, num_seqs, group, C::kRows, block);
  const int first_token = cu_seqlens_q[seq];
  const int num_queries = cu_seqlens_q[seq + 1] - first_token;
  const int tile = block - int((long long)first_token * group / C::kRows) - seq;
  const int num_rows = num_queries * group;
  const int first_row = tile * C::kRows;
  if (num_queries == 1 || first_row >= num_rows) return;

  const int end_row = min(first_row + C::kRows, num_rows);
  const int first_position = context_lens[seq] - num_queries;
  const int begin_key = max(0, first_position + first_row / group - window + 1);
  const int end_key = first_position + (end_row - 1) / group + 1;
  const int num_kv_heads = gridDim.y, kv_head = blockIdx.y;
  const PagedHead keys = {block_tables + (size_t)seq * max_blocks, block_size, num_kv_heads,
                          kv_head};
  const int slot_stride = num_kv_heads * HEAD_DIM;
  const auto* const k_head = k_cache + (size_t)kv_head * HEAD_DIM;
  const auto* const v_head = v_cache + (size_t)kv_head * HEAD_DIM;
  const int lane = threadIdx.x % kWarpSize;
  const int warp_row = threadIdx.x / kWarpSize * C::kWarpRows;

  int first_key = begin_key / C::kKeys * C::kKeys;
  if (threadIdx.x < C::kKeys) {
    const int key = first_key + (int)threadIdx.x;
    const int slot = key >= begin_key && key < end_key ? keys.slot(key) : -1;
    tile_keys[0].slots[threadIdx.x] = slot;
    if (INT8) {
      const size_t at = scale_index(max(slot, 0), block_size, num_kv_heads, kv_head);
      tile_keys[0].scales[0][threadIdx.x] = slot >= 0 ? k_scales[at] : 0.0f;
      tile_keys[0].scales[1][threadIdx.x] = slot >= 0 ? v_scales[at] : 0.0f;
    }
  }
  if (threadIdx.x == 0) kept_first_row = first_row;
  if (threadIdx.x < C::kRows)
    positions[threadIdx.x] = first_position + (first_row + (int)threadIdx.x) / group;
  for (int i = threadIdx.x; i < C::kRows * C::kVecs; i += kThreads) {
    const int row = i / C::kVecs, packed = first_row + row, vec = i % C::kVecs;
    const bool exists = packed < end_row;
    const int query = exists ? packed / group : 0, head = exists ? packed % group : 0;
    const T* from = q + (first_token + query) * q_stride +
                    (size_t)(kv_head * group + head) * HEAD_DIM + vec * 8;
    copy_async(q_tile + row * C::kStride + vec * 8, from, exists);
  }
  __syncthreads();  // slots and positions are there
  stage<T, HEAD_DIM>(k_head, slot_stride, tile_keys[0].slots, tile_keys[0].scales[0], k_tile);

  // Where this lane's rows of ldmatrix begin: in q by rows and halves of 16 elements, in k the
  // other way about (16 keys by 16 elements are two columns of b), in v again by rows, transposed.
  const T* const q_row = q_tile + (warp_row + lane % 16) * C::kStride + lane / 16 * 8;
  const T* const k_row = k_tile + (lane / 16 * 8 + lane % 8) * C::kStride + lane / 8 % 2 * 8;
  const T* const v_row = v_tile + lane % 16 * C::kStride + lane / 16 * 8;

  RowSoftmax<C::kRowTiles> rows;
  float sums[C::kRowTiles][HEAD_DIM / 8][4] = {};
#pragma unroll
  for (int tile = 0; tile < C::kRowTiles; ++tile)
    for (int half = 0; half < 2; ++half)
      rows.max[tile][half] = -infinity(), rows.sum[tile][half] = 0.0f;

  for (int parity = 0; first_key < end_key; parity ^= 1, first_key += C::kKeys) {
    copy_async_wait<0>();
    __syncthreads();  // k is complete (and at first q), and nobody reads v any more
    const auto& now = tile_keys[parity];
    stage<T, HEAD_DIM>(v_head, slot_stride, now.slots, now.scales[INT8 ? 1 : 0], v_tile);

    int next_slot = -1;
    float next_scale = 0.0f;  // of k, or in the next kKeys threads of v
    if (threadIdx.x < kPlanners) {
      const int key = first_key + C::kKeys + (int)threadIdx.x % C::kKeys;
      if (key < end_key) next_slot = keys.slot(key);
      if (INT8 && next_slot >= 0)
        next_scale = (threadIdx.x < C::kKeys
                          ? k_scales
                          : v_scales)[scale_index(next_slot, block_size, num_kv_heads, kv_head)];
    }

    const int low = positions[warp_row], high = positions[warp_row + C::kWarpRows - 1];
    const bool seen = first_key <= high && first_key + C::kKeys > low - window + 1;
    unsigned weights[C::kRowTiles][C::kKeys / 16][4];
    if (seen) {
      float scores[C::kRowTiles][C::kKeys / 8][4] = {};
#pragma unroll 4  // of all, more loads would be hoisted than registers are left
      for (int step = 0; step < HEAD_DIM / 16; ++step) {
        unsigned a[C::kRowTiles][4];
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile)
          ldmatrix(a[tile], q_row + tile * 16 * C::kStride + step * 16);
#pragma unroll
        for (int n = 0; n < C::kKeys / 16; ++n) {
          unsigned b[4];
          ldmatrix(b, k_row + n * 16 * C::kStride + step * 16);
#pragma unroll
          for (int tile = 0; tile < C::kRowTiles; ++tile) {
            mma<T>(scores[tile][2 * n], a[tile], b[0], b[1]);
            mma<T>(scores[tile][2 * n + 1], a[tile], b[2], b[3]);
          }
        }
      }
      if (first_key + C::kKeys - 1 > low || first_key <= high - window) {
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int position = positions[warp_row + tile * 16 + half * 8 + lane / 4];
#pragma unroll
            for (int n = 0; n < C::kKeys / 8; ++n)
#pragma unroll
              for (int i = 0; i < 2; ++i) {
                const int key = first_key + n * 8 + lane % 4 * 2 + i;
                const bool visible = key <= position && key > position - window;
                if (!visible) scores[tile][n][2 * half + i] = -infinity();
              }
          }
      }
      float decay[C::kRowTiles][2];
      add<T, C::kRowTiles, C::kKeys>(rows, scores, scale * kLog2E, weights, decay);
      bool rises = false;
#pragma unroll
      for (int tile = 0; tile < C::kRowTiles; ++tile)
        rises |= decay[tile][0] != 1.0f || decay[tile][1] != 1.0f;
      if (__any_sync(kFullMask, rises)) {
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile)
#pragma unroll
          for (auto& sum : sums[tile])
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] *= decay[tile][i / 2];
      }
    }

    auto& next = tile_keys[parity ^ 1];
    if (threadIdx.x < C::kKeys) next.slots[threadIdx.x] = next_slot;
    if (INT8 && threadIdx.x < kPlanners)
      next.scales[threadIdx.x / C::kKeys][threadIdx.x % C::kKeys] = next_scale;
    copy_async_wait<0>();
    __syncthreads();  // v and the next slots are complete, and nobody reads k any more
    if (first_key + C::kKeys < end_key)
      stage<T, HEAD_DIM>(k_head, slot_stride, next.slots, next.scales[0], k_tile);
    if (!seen) continue;

#pragma unroll
    for (int step = 0; step < C::kKeys / 16; ++step) {
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 16; ++n) {
        unsigned b[4];
        ldmatrix_trans(b, v_row + step * 16 * C::kStride + n * 16);
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile) {
          mma<T>(sums[tile][2 * n], weights[tile][step], b[0], b[1]);
          mma<T>(sums[tile][2 * n + 1], weights[tile][step], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int tile = 0; tile < C::kRowTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = 1.0f / warp_sum(rows.sum[tile][half], 4);
      const int packed = kept_first_row + warp_row + tile * 16 + half * 8 + lane / 4;
      if (packed >= end_row) continue;
      const size_t out_row = (size_t)(first_token + packed / group) * num_kv_heads * group +
                             kv_head * group + packed % group;
      auto* pairs = reinterpret_cast<unsigned*>(out + out_row * HEAD_DIM) + lane % 4;
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; ++n)
        pairs[4 * n] =
            pack<T>(sums[tile][n][2 * half] * inverse, sums[tile][n][2 * half + 1] * inverse);
    }
}
