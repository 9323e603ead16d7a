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

// Where the results of a partition go: to out where it is the only one, else to the partial sums,
// which attention_merge adds up.
template <typename T, int HEAD_DIM>
struct Results {
  T* out;                  // of the sequence's token: [num_heads, HEAD_DIM]
  float* partial_out;      // of the sequence: [num_heads, num_partitions, HEAD_DIM]
  float* partial_softmax;  // of the sequence: [num_heads, num_partitions, 2]
  int num_partitions, partition;
  bool is_only;

  // One element of a head: the weighted sum of v, relative to the maximum, and the weights' sum.
  __device__ void store(int head, int element, float sum, float highest, float total) const {
    if (is_only) {
      out[(size_t)head * HEAD_DIM + element] = T(sum / total);
      return;
    }
    const size_t at = (size_t)head * num_partitions + partition;
    partial_out[at * HEAD_DIM + element] = sum;
    if (element == 0) {
      partial_softmax[at * 2] = highest;
      partial_softmax[at * 2 + 1] = total;
    }
  }
};

// Those of this block: of sequence blockIdx.z, partition blockIdx.x.
template <typename T, int HEAD_DIM>
__device__ inline Results<T, HEAD_DIM> results_of(T* out, float* partial_out,
                                                  float* partial_softmax, int num_heads, int token,
                                                  Sight sight) {
  const size_t first = (size_t)blockIdx.z * num_heads * gridDim.x;
  return {out + (size_t)token * num_heads * HEAD_DIM,
          partial_out + first * HEAD_DIM,
          partial_softmax + first * 2,
          int(gridDim.x),
          int(blockIdx.x),
          sight.first_partition == sight.last_partition};
}
