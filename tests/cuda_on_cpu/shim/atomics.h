// Atomic functions, on the host's own.
#pragma once
#include "vectors.h"

template <typename T>
T atomicCAS(T* address, cuda_on_cpu::Exactly<T> expected, cuda_on_cpu::Exactly<T> desired) {
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_SEQ_CST,
                              __ATOMIC_SEQ_CST);
  return expected;
}

namespace cuda_on_cpu {
template <typename T, typename Change>
T atomic_update(T* address, Change change) {
  T old, desired;
  __atomic_load(address, &old, __ATOMIC_SEQ_CST);
  do desired = change(old);
  while (!__atomic_compare_exchange(address, &old, &desired, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST));
  return old;
}
}  // namespace cuda_on_cpu

template <typename T>
T atomicAdd(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return T(old + value); });
}
template <typename T>
T atomicSub(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return T(old - value); });
}
template <typename T>
T atomicMin(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicMax(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicExch(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T) { return value; });
}
template <typename T>
T atomicOr(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return T(old | value); });
}
template <typename T>
T atomicAnd(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return T(old & value); });
}
template <typename T>
T atomicXor(T* address, cuda_on_cpu::Exactly<T> value) {
  return cuda_on_cpu::atomic_update(address, [=](T old) { return T(old ^ value); });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return cuda_on_cpu::atomic_update(address,
                                    [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
