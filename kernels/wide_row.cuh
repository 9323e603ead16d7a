// A row of logits cut into shares: how the whole chip reads it, and what its last block draws from.
#pragma once

#include "draw.cuh"

constexpr int kTileLoads = 8;
constexpr int kTile = kTileLoads * kWarpSize;  // what a warp loads at once
constexpr int kMaxListed = 3072;               // candidates that fit into shared memory

// A row that is cut into shares.
struct WideRow {
  const float* logits;
  const int* maxima;
  int vocab_size, share_size, num_shares;

  __device__ WideRow(const float* all_logits, const int* all_maxima, int vocab_size, int share_size,
                     int num_shares)
      : logits(all_logits + (size_t)blockIdx.x * vocab_size),
        maxima(all_maxima + (size_t)blockIdx.x * num_shares),
        vocab_size(vocab_size),
        share_size(share_size),
        num_shares(num_shares) {}

  __device__ int num_words() const { return (vocab_size + kWarpSize - 1) / kWarpSize; }
  __device__ unsigned maximum(int share) const { return (unsigned)maxima[share]; }

  // The row's largest logit as ordered bits, to all threads.
  __device__ unsigned largest() const {
    unsigned largest = 0;
    for (int s = threadIdx.x; s < num_shares; s += blockDim.x) largest = max(largest, maximum(s));
    return block_max(largest);
  }

  // The lowest position that holds `largest`, to all threads.
  __device__ int position_of(unsigned largest) const {
    unsigned first = 0;  // inverted
    for (int s = threadIdx.x; s < num_shares; s += blockDim.x)
      if (maximum(s) == largest) first = max(first, ~(unsigned)s);
    const int begin = (int)~block_max(first) * share_size;
    return begin + position_of_largest(logits + begin, min(share_size, vocab_size - begin));
  }
};

// A tile of a row, kTileLoads logits a lane; beyond `end` -infinity.
__device__ inline void load_tile(const float* row, int tile, int end, float* logit) {
#pragma unroll
  for (int k = 0; k < kTileLoads; ++k) {
    const int i = tile + k * kWarpSize + (int)threadIdx.x % kWarpSize;
    logit[k] = i < end ? row[i] : -infinity();
  }
}

// Reads the shares of this block's warps. words: a bit for each logit that is a candidate; sums:
// of each share's weights. Both may be null.
template <typename Candidate, typename Weight>
__device__ inline void survey(const WideRow& wide, int* words, Count* sums, Candidate is_candidate,
                              Weight weight) {
  const int num_warps = blockDim.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  for (int share = blockIdx.y * num_warps + threadIdx.x / kWarpSize; share < wide.num_shares;
       share += gridDim.y * num_warps) {
    const int end = min((share + 1) * wide.share_size, wide.vocab_size);
    Count sum = 0;
    for (int tile = share * wide.share_size; tile < end; tile += kTile) {
      float logit[kTileLoads];
      load_tile(wide.logits, tile, end, logit);
      if (words) {
        unsigned own_word = 0;
#pragma unroll
        for (int k = 0; k < kTileLoads; ++k) {
          const unsigned word = __ballot_sync(kFullMask, is_candidate(logit[k]));
          if (lane == k) own_word = word;
        }
        const int at = tile / kWarpSize + lane;
        if (lane < kTileLoads && at < wide.num_words()) words[at] = (int)own_word;
      }
      if (sums) {
#pragma unroll
        for (int k = 0; k < kTileLoads; ++k) sum += weight(logit[k]);
      }
    }
    if (!sums) continue;
    sum = warp_sum(sum);
    if (lane == 0) sums[share] = sum;
  }
}

// Whether this is the last of the row's blocks to come here, to all its threads. Then it sees all
// that the others wrote before: each thread's writes are fenced before its block counts itself,
// and what the others wrote is read (past the first-level cache) after all have been counted.
__device__ inline bool arrives_last(int* arrived) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();  // all threads' writes are fenced
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1) == (int)gridDim.y - 1;
  __syncthreads();  // last is there
  __threadfence();
  return last;
}

// Gathers the candidates in the order of their ids; all threads get their number. If it is above
// kMaxListed, the list holds nothing of use.
__device__ inline int list_candidates(const WideRow& wide, const int* words, float* listed,
                                      int* ids) {
  const int per_thread = (wide.num_words() + blockDim.x - 1) / blockDim.x;
  const int begin = threadIdx.x * per_thread;
  const int end = min(wide.num_words(), begin + per_thread);
  int own = 0;
  for (int w = begin; w < end; ++w) own += __popc(__ldcg(words + w));
  int place = block_sum_before(own);
  const int count = block_sum(own);
  if (count > kMaxListed) return count;
  for (int w = begin; w < end; ++w)
    for (unsigned word = __ldcg(words + w); word != 0; word &= word - 1)
      ids[place++] = w * kWarpSize + __ffs(word) - 1;
  __syncthreads();  // all ids are there
  for (int n = threadIdx.x; n < count; n += blockDim.x) listed[n] = wide.logits[ids[n]];
  __syncthreads();  // all logits are there
  return count;
}

__device__ inline Count sum_of_shares(const Count* sums, int num_shares) {
  Count own = 0;
  for (int s = threadIdx.x; s < num_shares; s += blockDim.x) own += __ldcg(sums + s);
  return block_sum(own);
}

// A draw from a row whose shares' sums of survivors, in shared memory, are known; -1 if all are 0.
__device__ inline int draw_by_shares(const WideRow& wide, WeightedRow row, Survivors survivors,
                                     const Count* sums, Count fraction) {
  __shared__ int chosen;
  __shared__ Count target_inside;
  const int per_thread = (wide.num_shares + blockDim.x - 1) / blockDim.x;
  const int begin = threadIdx.x * per_thread;
  const int end = min(wide.num_shares, begin + per_thread);
  Count own = 0;
  for (int s = begin; s < end; ++s) own += sums[s];
  Count before = block_sum_before(own);
  const Count total = block_sum(own);
  if (total == 0) return -1;
  const Count target = __umul64hi(fraction, total);
  if (before <= target && target < before + own) {
    int share = begin;
    for (; before + sums[share] <= target; ++share) before += sums[share];
    chosen = share;
    target_inside = target - before;
  }
  __syncthreads();  // the share is there
  const int first = chosen * wide.share_size;
  row.logits = wide.logits + first;
  const int size = min(wide.share_size, wide.vocab_size - first);
  return first + position_at(row, survivors, size, target_inside);
}

// Copies the shares' sums into shared memory.
__device__ inline void fetch_sums(Count* fetched, const Count* sums, int num_shares) {
  __syncthreads();  // nobody reads what it held
  for (int s = threadIdx.x; s < num_shares; s += blockDim.x) fetched[s] = __ldcg(sums + s);
  __syncthreads();  // all sums are there
}
