// K and V of new tokens into their cache slots:  k_cache[slot_mapping[t]] = k[t], v alike
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
#include "common.cuh"

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
