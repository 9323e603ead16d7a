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

__device__ inline float from_ordered_bits(unsigned bits) {
  return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
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

// Adds to a 64-bit sum of shared memory by 32-bit atomics, which the hardware has (of 64 bits it
// loops until it meets no other thread). Which thread carries depends on their order, the sum
// does not.
__device__ inline void add_to(Count* sum, Count value) {
  unsigned* words = reinterpret_cast<unsigned*>(sum);
  const unsigned low = (unsigned)value;
  const unsigned before = atomicAdd(&words[0], low);
  const unsigned high = (unsigned)(value >> 32) + (before > ~low ? 1 : 0);
  if (high != 0) atomicAdd(&words[1], high);
}

__device__ inline void clear_bins(Count* bins) {
  __syncthreads();  // nobody reads what they held
  for (int i = threadIdx.x; i < kNumBins; i += blockDim.x) bins[i] = 0;
  __syncthreads();  // all bins are empty
}

// The largest value v (as ordered bits) such that the counts of all items whose bits are at
// least v sum up to `needed` or more; `needed` keeps what of it the items above v leave open.
// item(i, &bits) gives item i's bits and its count; those that count must reach `needed`. By
// radix, 11 bits at a time, of what the bits exceed the lowest by: two to four passes, and few
// threads meet in a bin. Sums are of integers, so the order of the threads changes nothing. bins:
// kNumBins of shared memory.
template <typename Item>
__device__ inline unsigned select_largest(Count* bins, int num_items, Count* needed, Item item) {
  unsigned lowest = ~0u, highest = 0;
  for (int i = threadIdx.x; i < num_items; i += blockDim.x) {
    unsigned bits;
    if (item(i, &bits) == 0) continue;
    lowest = min(lowest, bits);
    highest = max(highest, bits);
  }
  lowest = ~block_max(~lowest);
  highest = block_max(highest);
  unsigned found = 0;  // the digits so far
  for (int open_bits = 32 - __clz(highest - lowest); open_bits > 0;) {
    const int shift = max(0, open_bits - kDigitBits);
    clear_bins(bins);
    for (int i = threadIdx.x; i < num_items; i += blockDim.x) {
      unsigned bits;
      const Count count = item(i, &bits);
      const unsigned digits = (bits - lowest) >> shift;
      if (count != 0 && digits >> (open_bits - shift) == found)
        add_to(&bins[digits & ((1u << (open_bits - shift)) - 1)], count);
    }
    __syncthreads();  // all items are counted
    found = found << (open_bits - shift) | (unsigned)crossing_bin(bins, needed);
    open_bits = shift;
  }
  return lowest + found;
}
