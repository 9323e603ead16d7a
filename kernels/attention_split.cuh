// What the decode kernels share: partitions of the keys, and what becomes of one's sums.
//
// The partition is a constant: the order of the sums depends on the sequence's own length alone.
#pragma once

#include "attention.cuh"

constexpr int kPartition = 256;

// What a sequence sees: keys begin to end - 1, in partitions first to last.
struct Sight {
  int begin, end, first_partition, last_partition;

  __device__ Sight(int context_len, int window)
      : begin(max(0, context_len - window)),
        end(context_len),
        first_partition(begin / kPartition),
        last_partition((end - 1) / kPartition) {}

  __device__ bool sees(int position) const { return position >= begin && position < end; }
};

// What a block of a grid num_partitions x (num_kv_heads * head_tiles) x num_seqs has to do: up to
// ROWS query heads of a KV head, over one partition.
template <int ROWS>
struct Share {
  Sight sight;
  int token, kv_head, first_head, num_rows, num_heads;
  bool has_work;  // not where the sequence has more new tokens, or does not see the partition

  __device__ Share(const int* cu_seqlens_q, const int* context_lens, int num_kv_heads, int group,
                   int window)
      : sight(context_lens[blockIdx.z], window), token(cu_seqlens_q[blockIdx.z]) {
    const int partition = blockIdx.x;
    has_work = cu_seqlens_q[blockIdx.z + 1] - token == 1 && partition >= sight.first_partition &&
               partition <= sight.last_partition;
    const int head_tiles = gridDim.y / num_kv_heads;
    const int first_in_group = blockIdx.y % head_tiles * ROWS;
    kv_head = blockIdx.y / head_tiles;
    first_head = kv_head * group + first_in_group;
    num_rows = min(ROWS, group - first_in_group);
    num_heads = num_kv_heads * group;
  }
};

// Adds up what the block's warps have of v, sum_of(warp, row, element), each relative to its own
// maximum. The results go to out where the partition is the only one, else to the partial sums,
// which attention_merge adds up.
template <int HEAD_DIM, typename T, int WARPS, int ROWS, typename SumOf>
__device__ inline void merge_warps(const Share<ROWS>& share, const float (&highest)[WARPS][ROWS],
                                   const float (&total)[WARPS][ROWS], SumOf sum_of, T* out,
                                   float* partial_out, float* partial_softmax) {
  for (int i = threadIdx.x; i < share.num_rows * HEAD_DIM; i += WARPS * kWarpSize) {
    const int row = i / HEAD_DIM, element = i % HEAD_DIM, head = share.first_head + row;
    float all_highest = -infinity(), sum = 0.0f, all_total = 0.0f;
    for (int w = 0; w < WARPS; ++w) all_highest = fmaxf(all_highest, highest[w][row]);
    for (int w = 0; w < WARPS; ++w) {
      const float factor = exp2f(highest[w][row] - all_highest);
      all_total += factor * total[w][row];
      sum += factor * sum_of(w, row, element);
    }
    if (share.sight.first_partition == share.sight.last_partition) {
      out[((size_t)share.token * share.num_heads + head) * HEAD_DIM + element] = T(sum / all_total);
      continue;
    }
    const size_t at = ((size_t)blockIdx.z * share.num_heads + head) * gridDim.x + blockIdx.x;
    partial_out[at * HEAD_DIM + element] = sum;
    if (element == 0) {
      partial_softmax[at * 2] = all_highest;
      partial_softmax[at * 2 + 1] = all_total;
    }
  }
}
