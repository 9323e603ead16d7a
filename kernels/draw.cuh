// A block's draw of one of many logits, by the rule of numpy_sampling.py: weights, filters, draw.
#pragma once

#include "philox.cuh"
#include "select.cuh"

constexpr float kWeightOne = 1099511627776.0f;  // 2^40
// e^-28 * 2^40 is 0.76: what lies so far below the largest weighs nothing.
constexpr float kWeightless = 28.0f;
constexpr float kBinsPerUnit = 64.0f;

// floor(2^40 e^x) of an x that is not above 0, but for some 2^-22 of it; 0 of NaN. As in NumPy, bit
// by bit, since every operation is rounded as it stands: 2^r by a polynomial, then its exponent.
__device__ inline Count weight_of(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kFactors[] = {0.0013202981790527701f, 0.009674952365458012f,
                                0.055510472506284714f, 0.24022166430950165f, 0.6931465864181519f};
  const float power = __fmul_rn(fmaxf(x, -kWeightless), kLog2E);
  const float whole = rintf(power);
  const float rest = __fsub_rn(power, whole);
  float weight = 0.0f;
#pragma unroll
  for (const float factor : kFactors)
    weight = __fmul_rn(__fadd_rn(weight, factor * kWeightOne), rest);
  weight = __fadd_rn(weight, kWeightOne);
  return (Count)__int_as_float(__float_as_int(weight) + (int)whole * (1 << 23));
}

struct WeightedRow {
  const float* logits;
  float temperature, largest;  // largest: after division

  __device__ float scaled(int i) const { return logits[i] / temperature; }

  __device__ Count weight(float scaled_logit) const { return weight_of(scaled_logit - largest); }

  // Bins of 1/64 each from the largest, in the last, downwards. Bin 0 holds all that is 32 or
  // more below it, and NaN: nothing of weight. Rounding keeps order, so no logit of a bin is
  // above one of a higher bin.
  __device__ int bin(float scaled_logit) const {
    const float below = (largest - scaled_logit) * kBinsPerUnit;
    return below < kNumBins - 1 ? kNumBins - 1 - (int)fmaxf(below, 0.0f) : 0;
  }
};

struct Filters {
  int top_k;
  float top_p, min_p;  // 0, 1, 0 switch off
};

// What is left of a row after the filters: logits from `floor` up with weights from `min_weight`.
struct Survivors {
  unsigned floor;
  Count min_weight;

  __device__ Count weight(const WeightedRow& row, float scaled) const {
    if (ordered_bits(scaled) < floor) return 0;
    const Count weight = row.weight(scaled);
    return weight < min_weight ? 0 : weight;
  }
};

__device__ inline Count min_weight_of(float min_p) {
  return min_p > 0.0f ? (Count)(double(min_p) * 1099511627776.0) : 0;
}

// What top_p asks for of a total.
__device__ inline Count needed_of(float top_p, Count total) {
  return max((Count)1, (Count)(double(top_p) * double(total)));
}

// The sum of the survivors' weights, to all threads.
__device__ inline Count total_weight(const WeightedRow& row, Survivors survivors, int size) {
  Count own = 0;
  for (int i = threadIdx.x; i < size; i += blockDim.x) own += survivors.weight(row, row.scaled(i));
  return block_sum(own);
}

// The largest logit (as ordered bits) from which on upwards the counts reach `needed`; 0 if it
// lies so far down that all which weighs anything is above it. count(scaled) of what weighs
// nothing may be anything.
template <typename CountOf>
__device__ inline unsigned find_floor(Count* bins, const WeightedRow& row, int size, Count needed,
                                      CountOf count) {
  clear_bins(bins);
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const float scaled = row.scaled(i);
    const int bin = row.bin(scaled);
    const Count own = bin > 0 ? count(scaled) : 0;
    if (own != 0) add_to(&bins[bin], own);
  }
  __syncthreads();  // all logits are counted
  const int chosen = crossing_bin(bins, &needed);
  if (chosen == 0) return 0;
  return select_largest(bins, size, &needed, [&](int i, unsigned* bits) -> Count {
    const float scaled = row.scaled(i);
    *bits = ordered_bits(scaled);
    return row.bin(scaled) == chosen ? count(scaled) : 0;
  });
}

// The filters' work. `total`: of the weights that top_p takes its share of; 0 if it is not known.
// `lowest_floor` becomes the lower one of the floors of top_k and top_p.
__device__ inline Survivors filter(Count* bins, const WeightedRow& row, int size, Filters filters,
                                   Count total, unsigned* lowest_floor) {
  Survivors survivors = {0, 0};
  *lowest_floor = ~0u;
  if (filters.top_k > 0 && filters.top_k <= size) {
    survivors.floor = find_floor(bins, row, size, filters.top_k, [](float) -> Count { return 1; });
    *lowest_floor = survivors.floor;
  }
  if (filters.top_p < 1.0f) {
    if (total == 0) total = total_weight(row, survivors, size);
    const Count needed = needed_of(filters.top_p, total);
    const unsigned floor = find_floor(bins, row, size, needed,
                                      [&](float scaled) { return survivors.weight(row, scaled); });
    *lowest_floor = min(*lowest_floor, floor);
    survivors.floor = max(survivors.floor, floor);
  }
  survivors.min_weight = min_weight_of(filters.min_p);
  return survivors;
}

// The first position, in order, at which the running sum of weights exceeds `target`, which is
// below their sum. Each warp sums a share of the range, the share that holds the target becomes
// the range, until a warp can hold it.
__device__ inline int position_at(const WeightedRow& row, Survivors survivors, int size,
                                  Count target) {
  __shared__ Count share_sums[kWarpSize];
  __shared__ int found;
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  const int num_warps = blockDim.x / kWarpSize;
  int begin = 0, end = size;
  while (end - begin > kWarpSize) {
    const int share = (end - begin + num_warps - 1) / num_warps;
    const int share_end = min(end, begin + (warp + 1) * share);
    Count sum = 0;
    for (int i = begin + warp * share + lane; i < share_end; i += kWarpSize)
      sum += survivors.weight(row, row.scaled(i));
    sum = warp_sum(sum);
    __syncthreads();  // the sums of the round before are still being read
    if (lane == 0) share_sums[warp] = sum;
    __syncthreads();  // all sums are there
    int chosen = 0;
    while (share_sums[chosen] <= target) target -= share_sums[chosen++];
    begin += chosen * share;
    end = min(end, begin + share);
  }
  const int own = begin + lane;
  const Count weight = own < end ? survivors.weight(row, row.scaled(own)) : 0;
  const Count before = warp_sum_before(weight);
  if (warp == 0 && before <= target && target < before + weight) found = own;
  __syncthreads();  // found is there
  return found;
}

// The first position, in order, whose running sum of weights exceeds `fraction` / 2^64 of the
// total; -1 if all weights are 0.
__device__ inline int draw(const WeightedRow& row, Survivors survivors, int size, Count fraction) {
  const Count total = total_weight(row, survivors, size);
  return total == 0 ? -1 : position_at(row, survivors, size, __umul64hi(fraction, total));
}

// The row's 64 random bits.
__device__ inline Count random_fraction(const int* seeds, const int* positions, int row) {
  const PhiloxWords random =
      philox({{(unsigned)positions[row], 0, 0, 0}}, seeds[2 * row], seeds[2 * row + 1]);
  return (Count)random.word[1] << 32 | random.word[0];
}
