// Attention of sequences with more than one new token, over the paged cache, by tiles with an
// online softmax (FlashAttention-2: Dao, 2023):  out = softmax(q k^T * scale + mask) v
//
//   q                 [num_tokens, num_heads, HEAD_DIM]  T; heads contiguous, tokens q_stride apart
//   k_cache, v_cache  [num_blocks, block_size, num_kv_heads, HEAD_DIM]  T, or int8 where INT8
//   k_scales, v_scales  as in cache.cuh, where INT8
//   block_tables      [num_seqs, max_blocks]             int32
//   cu_seqlens_q      [num_seqs + 1]                     int32
//   context_lens      [num_seqs]                         int32
//   out               [num_tokens, num_heads, HEAD_DIM]  T, contiguous
//
//   grid    (num_tokens * group / 32 + num_seqs) x num_kv_heads blocks, group = num_heads /
//           num_kv_heads. The query heads that share a KV head are packed: row r of a sequence is
//           query r / group, head r % group, and a block owns 32 rows. Sequence i owns blocks
//           from cu_seqlens_q[i] * group / 32 + i on; the last may have nothing to do, and
//           sequences with one new token are left to attention_decode.
//   block   128 threads; warp w owns rows 8 w to 8 w + 7. Lane l owns key l of a tile of 32 in
//           q k^T, and every 32nd 4-byte word of a row in the product with v.
//   memory  k and v are read once per 32 rows, in chunks of 256 bytes of a row of T through shared
//           memory; 32 * (4 * HEAD_DIM + 404) bytes of shared memory at most
//   needs   HEAD_DIM % 8 == 0, 8 <= HEAD_DIM <= 256, q_stride % 8 == 0, arrays 16-byte aligned
//
// A key beyond every row's sight is never read. A tile that a row does not see changes nothing of
// the row, to the last bit: its result does not depend on the rows it shares a block with.
#include "attention.cuh"

constexpr int kWarps = 4;
constexpr int kRowsPerWarp = 8;
constexpr int kTileRows = kWarps * kRowsPerWarp;

// The layout of a chunk of 32 rows of k or v: up to 256 bytes of each.
template <typename T, int HEAD_DIM>
struct Chunk {
  static constexpr int kLanes = 16 / sizeof(T);
  static constexpr int kRowVecs = HEAD_DIM / kLanes;
  static constexpr int kVecs = kRowVecs < 16 ? kRowVecs : 16;
  static constexpr int kCount = (kRowVecs + kVecs - 1) / kVecs;
  static constexpr int kStride = kVecs | 1;  // odd: 32 rows read at once hit all banks evenly
  static constexpr int kWordLanes = 4 / sizeof(T);
  static constexpr int kWords = (kVecs * 4 + kWarpSize - 1) / kWarpSize;  // a lane's, of a row
};

// The last sequence whose first block is not after `tile`.
__device__ inline int sequence_of_tile(const int* cu_seqlens_q, int num_seqs, int group, int tile) {
  int low = 0, high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    const int first = int((long long)cu_seqlens_q[middle] * group / kTileRows) + middle;
    if (first <= tile)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Stages chunk `chunk` of the tile at first_key; keys outside begin_key to end_key - 1 become zero.
template <typename T, int HEAD_DIM, typename E>
__device__ inline void stage(const E* cache, const float* scales, PagedHead keys, int first_key,
                             int begin_key, int end_key, int chunk, Vec<T>* staged) {
  using C = Chunk<T, HEAD_DIM>;
  for (int i = threadIdx.x; i < kTileKeys * C::kVecs; i += kWarps * kWarpSize) {
    const int key = i / C::kVecs, vec = i % C::kVecs;
    const int row_vec = chunk * C::kVecs + vec;
    const int position = first_key + key;
    Vec<T> value = {};
    if (position >= begin_key && position < end_key && row_vec < C::kRowVecs) {
      const auto* row =
          reinterpret_cast<const Vec<E, C::kLanes>*>(cache) + keys.row(position) * C::kRowVecs;
      if constexpr (sizeof(E) == 1)
        value = expanded<T>(load_if(true, row + row_vec), scales[keys.scale(position)]);
      else
        value = row[row_vec];
    }
    staged[key * C::kStride + vec] = value;
  }
}

// Two blocks per multiprocessor: without the bound the compiler spills to make room for more.
template <typename T, int HEAD_DIM, bool INT8>
__global__ void __launch_bounds__(kWarps* kWarpSize, 2)
    attention_prefill(const T* q, const Cached<T, INT8>* k_cache, const Cached<T, INT8>* v_cache,
                      const float* k_scales, const float* v_scales, const int* block_tables,
                      const int* cu_seqlens_q, const int* context_lens, T* out, int num_seqs,
                      int max_blocks, int block_size, int group, long long q_stride, float scale,
                      int window) {
  using C = Chunk<T, HEAD_DIM>;
  __shared__ __align__(16) float q_tile[kTileRows * HEAD_DIM];
  __shared__ Vec<T> staged[kTileKeys * C::kStride];
  __shared__ __align__(16) float weights[kTileRows * kTileKeys];
  __shared__ int positions[kTileRows];

  const int seq = sequence_of_tile(cu_seqlens_q, num_seqs, group, blockIdx.x);
  const int first_token = cu_seqlens_q[seq];
  const int num_queries = cu_seqlens_q[seq + 1] - first_token;
  const int tile = blockIdx.x - int((long long)first_token * group / kTileRows) - seq;
  const int num_rows = num_queries * group;
  const int first_row = tile * kTileRows;
  if (num_queries == 1 || first_row >= num_rows) return;

  const int end_row = min(first_row + kTileRows, num_rows);
  const int first_position = context_lens[seq] - num_queries;
  const int begin_key = max(0, first_position + first_row / group - window + 1);
  const int end_key = first_position + (end_row - 1) / group + 1;
  const PagedHead keys = {block_tables + (size_t)seq * max_blocks, block_size, int(gridDim.y),
                          int(blockIdx.y)};
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int num_heads = gridDim.y * group;

  for (int i = threadIdx.x; i < kTileRows * C::kRowVecs; i += kWarps * kWarpSize) {
    const int row = first_row + i / C::kRowVecs, vec = i % C::kRowVecs;
    Vec<T> value = {};
    if (row < end_row) {
      const T* q_row = q + (first_token + row / group) * q_stride +
                       (size_t)(blockIdx.y * group + row % group) * HEAD_DIM;
      value = reinterpret_cast<const Vec<T>*>(q_row)[vec];
    }
    for (int k = 0; k < C::kLanes; ++k)
      q_tile[i * C::kLanes + k] = float(value.lane[k]) * (scale * kLog2E);
  }

  if (threadIdx.x < kTileRows)
    positions[threadIdx.x] = first_position + (first_row + (int)threadIdx.x) / group;

  OnlineSoftmax softmax[kRowsPerWarp];
  float sums[kRowsPerWarp][C::kCount][C::kWords][C::kWordLanes] = {};
  for (OnlineSoftmax& row : softmax) row = {-infinity(), 0.0f};

  for (int first_key = begin_key / kTileKeys * kTileKeys; first_key < end_key;
       first_key += kTileKeys) {
    float scores[kRowsPerWarp] = {};
#pragma unroll
    for (int chunk = 0; chunk < C::kCount; ++chunk) {
      __syncthreads();  // the staged chunk before this one is still being read
      stage<T, HEAD_DIM>(k_cache, k_scales, keys, first_key, begin_key, end_key, chunk, staged);
      __syncthreads();  // this chunk of k (and in the first round q_tile and positions) is complete
#pragma unroll 2
      for (int vec = 0; vec < C::kVecs; ++vec) {
        if (chunk * C::kVecs + vec >= C::kRowVecs) break;
        const Vec<T> k = staged[lane * C::kStride + vec];
        const float* q_part =
            q_tile + warp * kRowsPerWarp * HEAD_DIM + (chunk * C::kVecs + vec) * C::kLanes;
#pragma unroll
        for (int row = 0; row < kRowsPerWarp; ++row)
#pragma unroll
          for (int part = 0; part < C::kLanes / 4; ++part) {
            const auto q4 =
                *reinterpret_cast<const Vec<float>*>(q_part + row * HEAD_DIM + part * 4);
            for (int i = 0; i < 4; ++i) scores[row] += q4.lane[i] * float(k.lane[part * 4 + i]);
          }
      }
    }

    const int key = first_key + lane;
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      const int position = positions[warp * kRowsPerWarp + row];
      const bool visible = key <= position && key > position - window;
      float decay;
      weights[(warp * kRowsPerWarp + row) * kTileKeys + lane] =
          softmax[row].add(visible ? scores[row] : -infinity(), &decay);
      for (auto& chunk_sums : sums[row])
        for (auto& word_sums : chunk_sums)
          for (float& sum : word_sums) sum *= decay;
    }

#pragma unroll
    for (int chunk = 0; chunk < C::kCount; ++chunk) {
      __syncthreads();  // k (or the chunk of v before this one) is still being read
      stage<T, HEAD_DIM>(v_cache, v_scales, keys, first_key, begin_key, end_key, chunk, staged);
      __syncthreads();  // this chunk of v and the weights are complete
#pragma unroll 2
      for (int part = 0; part < kTileKeys; part += 2) {
        Vec<float, 2> weight[kRowsPerWarp];
#pragma unroll
        for (int row = 0; row < kRowsPerWarp; ++row)
          weight[row] = *reinterpret_cast<const Vec<float, 2>*>(
              weights + (warp * kRowsPerWarp + row) * kTileKeys + part);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int word = 0; word < C::kWords; ++word) {
            const int at = word * kWarpSize + lane;
            if (at >= C::kVecs * 4) continue;
            const auto* v_row =
                reinterpret_cast<const Vec<T, C::kWordLanes>*>(staged + (part + i) * C::kStride);
            const Vec<T, C::kWordLanes> v = v_row[at];
#pragma unroll
            for (int row = 0; row < kRowsPerWarp; ++row)
              for (int k = 0; k < C::kWordLanes; ++k)
                sums[row][chunk][word][k] += weight[row].lane[i] * float(v.lane[k]);
          }
      }
    }
  }

#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) {
    const float total = warp_sum(softmax[row].sum);
    const int packed = first_row + warp * kRowsPerWarp + row;
    if (packed >= end_row) continue;
    const size_t out_row =
        (size_t)(first_token + packed / group) * num_heads + blockIdx.y * group + packed % group;
    auto* words = reinterpret_cast<Vec<T, C::kWordLanes>*>(out + out_row * HEAD_DIM);
#pragma unroll
    for (int chunk = 0; chunk < C::kCount; ++chunk)
#pragma unroll
      for (int word = 0; word < C::kWords; ++word) {
        const int in_chunk = word * kWarpSize + lane;
        const int at = chunk * C::kVecs * 4 + in_chunk;
        if (in_chunk >= C::kVecs * 4 || at >= C::kRowVecs * 4) continue;
        Vec<T, C::kWordLanes> result;
        for (int k = 0; k < C::kWordLanes; ++k)
          result.lane[k] = T(sums[row][chunk][word][k] / total);
        words[at] = result;
      }
  }
}
