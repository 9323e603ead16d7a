// Barriers and warp primitives. Each knows the line that called it, for the report of a fault.
#pragma once
#include "block.h"

#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_ON_CPU_HERE) {
  cuda_on_cpu::block_barrier({"__syncthreads", file, line}, 0);
}
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block
      ->sum[cuda_on_cpu::block_barrier({"__syncthreads_count", file, line}, predicate)];
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block
      ->all[cuda_on_cpu::block_barrier({"__syncthreads_and", file, line}, predicate)];
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::block
      ->any[cuda_on_cpu::block_barrier({"__syncthreads_or", file, line}, predicate)];
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::part(cuda_on_cpu::meet({"__syncwarp", file, line}, mask, 0));
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

namespace cuda_on_cpu {

template <typename T>
uint64_t to_slot(T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "no such shuffle in CUDA");
  uint64_t slot = 0;
  memcpy(&slot, &value, sizeof(T));
  return slot;
}

template <typename T>
T from_slot(uint64_t slot) {
  T value;
  memcpy(&value, &slot, sizeof(T));
  return value;
}

template <typename T>
T shuffle(Place place, unsigned mask, T value, int source) {
  Meeting* meeting = meet(place, mask, to_slot(value));
  if (!(meeting->mask >> source & 1))
    fault("%s (%s:%d): lane %d reads lane %d, which mask 0x%08x does not name or does not exist",
          place.primitive, base_name(place.file), place.line, current->lane, source, mask);
  const T result = from_slot<T>(meeting->slot[source]);
  part(meeting);
  return result;
}

inline int checked_width(const char* primitive, int width) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)))
    fault("%s: width must be a power of two up to 32, got %d", primitive, width);
  return width;
}

template <typename T, typename Combine>
T reduce(Place place, unsigned mask, T value, Combine combine) {
  Meeting* meeting = meet(place, mask, to_slot(value));
  bool first = true;
  T result = value;
  for (unsigned rest = meeting->mask; rest; rest &= rest - 1) {
    const T other = from_slot<T>(meeting->slot[__builtin_ctz(rest)]);
    result = first ? other : combine(result, other);
    first = false;
  }
  part(meeting);
  return result;
}

inline unsigned vote(Place place, unsigned mask, bool predicate, unsigned* lanes) {
  Meeting* meeting = meet(place, mask, predicate);
  const unsigned ballot = meeting->ballot;
  *lanes = meeting->mask;
  part(meeting);
  return ballot;
}

}  // namespace cuda_on_cpu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_HERE) {
  const int segment = ~(cuda_on_cpu::checked_width("__shfl_sync", width) - 1);
  const int lane = (cuda_on_cpu::current->lane & segment) | (source & ~segment);
  return cuda_on_cpu::shuffle({"__shfl_sync", file, line}, mask, value, lane);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int first =
      cuda_on_cpu::current->lane & ~(cuda_on_cpu::checked_width("__shfl_up_sync", width) - 1);
  const int lane = cuda_on_cpu::current->lane - int(delta & 31);
  return cuda_on_cpu::shuffle({"__shfl_up_sync", file, line}, mask, value,
                              lane < first ? cuda_on_cpu::current->lane : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_HERE) {
  const int last =
      cuda_on_cpu::current->lane | (cuda_on_cpu::checked_width("__shfl_down_sync", width) - 1);
  const int lane = cuda_on_cpu::current->lane + int(delta & 31);
  return cuda_on_cpu::shuffle({"__shfl_down_sync", file, line}, mask, value,
                              lane > last ? cuda_on_cpu::current->lane : lane);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, CUDA_ON_CPU_HERE) {
  const int last =
      cuda_on_cpu::current->lane | (cuda_on_cpu::checked_width("__shfl_xor_sync", width) - 1);
  const int lane = cuda_on_cpu::current->lane ^ (flip & 31);
  return cuda_on_cpu::shuffle({"__shfl_xor_sync", file, line}, mask, value,
                              lane > last ? cuda_on_cpu::current->lane : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  unsigned lanes;
  return cuda_on_cpu::vote({"__ballot_sync", file, line}, mask, predicate != 0, &lanes);
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  unsigned lanes;
  return cuda_on_cpu::vote({"__any_sync", file, line}, mask, predicate != 0, &lanes) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_HERE) {
  unsigned lanes;
  const unsigned ballot =
      cuda_on_cpu::vote({"__all_sync", file, line}, mask, predicate != 0, &lanes);
  return ballot == lanes;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_HERE) {
  using namespace cuda_on_cpu;
  Meeting* meeting = meet({"__match_any_sync", file, line}, mask, to_slot(value));
  unsigned same = 0;
  for (unsigned rest = meeting->mask; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (meeting->slot[lane] == to_slot(value)) same |= 1u << lane;
  }
  part(meeting);
  return same;
}
// Lanes of a warp need not run together: a lane alone is a true answer, and the only one that
// code may not lean on.
inline unsigned __activemask() { return 1u << cuda_on_cpu::current->lane; }

#define CUDA_ON_CPU_REDUCE(T)                                                          \
  inline T __reduce_add_sync(unsigned mask, T value, CUDA_ON_CPU_HERE) {               \
    return cuda_on_cpu::reduce({"__reduce_add_sync", file, line}, mask, value,         \
                               [](T a, T b) { return T(unsigned(a) + unsigned(b)); }); \
  }                                                                                    \
  inline T __reduce_min_sync(unsigned mask, T value, CUDA_ON_CPU_HERE) {               \
    return cuda_on_cpu::reduce({"__reduce_min_sync", file, line}, mask, value,         \
                               [](T a, T b) { return b < a ? b : a; });                \
  }                                                                                    \
  inline T __reduce_max_sync(unsigned mask, T value, CUDA_ON_CPU_HERE) {               \
    return cuda_on_cpu::reduce({"__reduce_max_sync", file, line}, mask, value,         \
                               [](T a, T b) { return a < b ? b : a; });                \
  }
CUDA_ON_CPU_REDUCE(int)
CUDA_ON_CPU_REDUCE(unsigned)
#undef CUDA_ON_CPU_REDUCE
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::reduce({"__reduce_or_sync", file, line}, mask, value,
                             [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::reduce({"__reduce_and_sync", file, line}, mask, value,
                             [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, CUDA_ON_CPU_HERE) {
  return cuda_on_cpu::reduce({"__reduce_xor_sync", file, line}, mask, value,
                             [](unsigned a, unsigned b) { return a ^ b; });
}
