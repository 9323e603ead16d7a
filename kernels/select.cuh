// The largest, and the k-th largest, of many floats without sorting them: exactly, by their bits.
#pragma once

#include "common.cuh"

using Count = unsigned long long;

constexpr int kDigitBits = 11;
constexpr int kNumBins = 1 << kDigitBits;

// Unsigned integers in the order of the floats; -0 and 0 are one.
__device__ inline unsigned ordered_bits(float value) {
  const unsigned bits = __float_as_uint(value);
  if (bits == 0x80000000u) return bits;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The position of the largest of a row of floats; of several, the lowest. All threads get it.
__device__ inline int position_of_largest(const float* row, int size) {
  unsigned long long best = 0;  // ordered bits over inverted position: equal values fall back to it
#pragma unroll 8
  for (int i = threadIdx.x; i < size; i += blockDim.x)
    best = max(best, (unsigned long long)ordered_bits(row[i]) << 32 | (unsigned)~i);
  return (int)~(unsigned)block_max(best);
}

// Of the bins, from the highest down, the first at which the running sum of counts reaches
// `needed`: all threads get its index, and `needed` loses what the bins above it hold. If the
// counts never reach `needed`, the lowest bin.
__device__ inline int crossing_bin(const Count* bins, Count* needed) {
  __shared__ int found;
  __shared__ Count above_found;
  const int per_thread = (kNumBins + blockDim.x - 1) / blockDim.x;
  const int first = kNumBins - 1 - (int)threadIdx.x * per_thread;  // thread 0: the highest
  Count own = 0;
  for (int i = 0; i < per_thread; ++i)
    if (first - i >= 0) own += bins[first - i];
  Count above = block_sum_before(own);
  if (threadIdx.x == 0) {
    found = 0;
    above_found = 0;
  }
  __syncthreads();  // the defaults are set before the one thread that knows better writes
  if (above < *needed && above + own >= *needed) {
    int bin = first;
    for (; above + bins[bin] < *needed; --bin) above += bins[bin];
    found = bin;
    above_found = above;
  }
  __syncthreads();  // found is there
  // A second call writes these only behind the barriers of its own block_sum_before.
  *needed -= above_found;
  return found;
}

// The largest value v (as ordered bits) such that the counts of all items whose bits are at
// least v sum up to `needed` or more; `needed` keeps what of it the items above v leave open.
// item(i, &bits) gives item i's bits and its count. By radix, 11 bits at a time: three passes.
// Sums are of integers, so the order of the threads changes nothing. bins: kNumBins of shared
// memory.
template <typename Item>
__device__ inline unsigned select_largest(Count* bins, int num_items, Count* needed, Item item) {
  unsigned found = 0, found_mask = 0;
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = digit < 2 ? 32 - kDigitBits * (digit + 1) : 0;
    const unsigned digit_mask = digit < 2 ? kNumBins - 1 : kNumBins / 2 - 1;  // 11, 11, 10 bits
    for (int i = threadIdx.x; i < kNumBins; i += blockDim.x) bins[i] = 0;
    __syncthreads();  // all bins are empty
    for (int i = threadIdx.x; i < num_items; i += blockDim.x) {
      unsigned bits;
      const Count count = item(i, &bits);
      if (count != 0 && (bits & found_mask) == found)
        atomicAdd(&bins[bits >> shift & digit_mask], count);
    }
    __syncthreads();  // all items are counted
    found |= (unsigned)crossing_bin(bins, needed) << shift;
    found_mask |= digit_mask << shift;
  }
  return found;
}
