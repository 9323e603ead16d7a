// What the prefill and the decode kernel share: the paged cache, and the online softmax.
//
// Scores are kept in units of log2: exp2f is one instruction, and scale * log2(e) is folded into q.
#pragma once

#include "cache.cuh"

constexpr int kTileKeys = kWarpSize;  // keys per tile: one per lane
constexpr float kLog2E = 1.44269504088896340736f;

// One KV head of one sequence in a cache [num_blocks, block_size, num_kv_heads, head_dim].
struct PagedHead {
  const int* block_table;
  int block_size, num_kv_heads, kv_head;

  // Which of the cache's tokens the key at `position` is; slots fit an int, as in slot_mapping.
  __device__ int slot(int position) const {
    return block_table[position / block_size] * block_size + position % block_size;
  }

  // Which of the cache's rows of head_dim elements holds it.
  __device__ size_t row(int position) const {
    return (size_t)slot(position) * num_kv_heads + kv_head;
  }

  // Where its scale is, in a cache of 8 bits.
  __device__ size_t scale(int position) const {
    return scale_index(slot(position), block_size, num_kv_heads, kv_head);
  }
};

// Running softmax of one row (Milakov and Gimelshein, 2018); max is the same in all lanes, sum
// is each lane's own share.
struct OnlineSoftmax {
  float max, sum;

  // Takes in one score per lane, -inf where masked: returns the lane's weight, and in `decay`
  // what all earlier weights must be multiplied by.
  __device__ float add(float score, float* decay) {
    const float new_max = fmaxf(max, warp_max(score));
    const float reference = new_max == -infinity() ? 0.0f : new_max;  // -inf - -inf is NaN
    const float weight = exp2f(score - reference);
    *decay = exp2f(max - reference);
    sum = sum * *decay + weight;
    max = new_max;
    return weight;
  }
};
