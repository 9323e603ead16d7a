// K and V of new tokens into their cache slots, and out of a cache of 8 bits.
//
// store_kv:  k_cache[slot_mapping[t]] = k[t], v alike
//
//   k, v              [num_tokens, num_kv_heads * head_dim]  T; tokens token_stride apart
//   k_cache, v_cache  [num_slots, num_kv_heads * head_dim]   T, contiguous
//   slot_mapping      [num_tokens]                           int32, each slot at most once;
//                                                              a negative one stores nothing
//
//   grid    num_tokens blocks; block b owns token b
//   block   up to 256 threads; thread t owns vectors t, t + blockDim.x, ... of K and of V
//   memory  reads and writes each element once; bandwidth-bound
//   needs   width % LANES == 0, token_stride % LANES == 0, width = num_kv_heads * head_dim
//
// store_kv_int8: the same in 8 bits, with scales as in cache.cuh.
//
//   grid    num_tokens x ceil(2 * num_kv_heads / (128 / width)) blocks, heads of k before v
//   block   128 threads; `width` neighbouring lanes own a head
//   memory  reads each element twice, the second time from cache; bandwidth-bound
//   needs   head_dim % LANES == 0, token_stride % LANES == 0, width a power of two up to 32
//
// gather_int8:  out[b] = scales * cache of block blocks[b], one of K or V, rounded to T
//
//   out     [num_blocks, block_size, num_kv_heads, head_dim]  T, contiguous
//   blocks  [num_blocks]                                      int32, blocks of the cache
//
//   grid    num_blocks x ceil(block_size * num_kv_heads * head_dim / LANES / 256) blocks
//   block   256 threads; a thread owns a vector
//   memory  reads and writes each element once; bandwidth-bound
//   needs   head_dim % LANES == 0
#include "cache.cuh"

template <typename T, int LANES>
__global__ void store_kv(const T* k, const T* v, T* k_cache, T* v_cache, const int* slot_mapping,
                         int width, long long token_stride) {
  if (slot_mapping[blockIdx.x] < 0) return;
  const int num_vecs = width / LANES;
  const auto* k_row = reinterpret_cast<const Vec<T, LANES>*>(k + blockIdx.x * token_stride);
  const auto* v_row = reinterpret_cast<const Vec<T, LANES>*>(v + blockIdx.x * token_stride);
  const size_t slot = (size_t)slot_mapping[blockIdx.x] * num_vecs;
  auto* k_slot = reinterpret_cast<Vec<T, LANES>*>(k_cache) + slot;
  auto* v_slot = reinterpret_cast<Vec<T, LANES>*>(v_cache) + slot;
  for (int i = threadIdx.x; i < num_vecs; i += blockDim.x) {
    k_slot[i] = k_row[i];
    v_slot[i] = v_row[i];
  }
}

template <typename T, int LANES>
__global__ void store_kv_int8(const T* k, const T* v, signed char* k_cache, signed char* v_cache,
                              float* k_scales, float* v_scales, const int* slot_mapping,
                              int num_kv_heads, int head_dim, int block_size,
                              long long token_stride, int width) {
  const int slot = slot_mapping[blockIdx.x];
  if (slot < 0) return;
  const int lane = threadIdx.x % width;
  const int head = blockIdx.y * (blockDim.x / width) + threadIdx.x / width;
  const bool is_v = head >= num_kv_heads;
  const int kv_head = head - (is_v ? num_kv_heads : 0);
  // Lanes past the last head stay for the shuffles, with nothing to read.
  const int num_vecs = head < 2 * num_kv_heads ? head_dim / LANES : 0;
  const auto* row = reinterpret_cast<const Vec<T, LANES>*>(
      (is_v ? v : k) + blockIdx.x * token_stride + (size_t)kv_head * head_dim);

  float highest = 0.0f;
  for (int i = lane; i < num_vecs; i += width) highest = fmaxf(highest, largest_magnitude(row[i]));
  const float scale = warp_max(highest, width) / 127.0f;
  if (num_vecs == 0) return;
  if (lane == 0)
    (is_v ? v_scales : k_scales)[scale_index(slot, block_size, num_kv_heads, kv_head)] = scale;
  auto* stored = reinterpret_cast<Vec<signed char, LANES>*>(
      (is_v ? v_cache : k_cache) + ((size_t)slot * num_kv_heads + kv_head) * head_dim);
  for (int i = lane; i < num_vecs; i += width) stored[i] = quantized(row[i], scale);
}

template <typename T, int LANES>
__global__ void gather_int8(const signed char* cache, const float* scales, const int* blocks,
                            T* out, int block_size, int num_kv_heads, int head_dim) {
  const int head_vecs = head_dim / LANES;
  const int block_vecs = block_size * num_kv_heads * head_vecs;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= block_vecs) return;
  const int offset = i / (num_kv_heads * head_vecs), kv_head = i / head_vecs % num_kv_heads;
  const size_t block = blocks[blockIdx.x];
  const float scale = scales[(block * num_kv_heads + kv_head) * block_size + offset];
  const auto numbers =
      reinterpret_cast<const Vec<signed char, LANES>*>(cache)[block * block_vecs + i];
  reinterpret_cast<Vec<T, LANES>*>(out)[(size_t)blockIdx.x * block_vecs + i] =
      expanded<T>(numbers, scale);
}
