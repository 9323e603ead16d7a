// Integer and bit functions, reinterpretations, and loads and stores with a cache hint.
#pragma once
#include "warp.h"

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned long long __brevll(unsigned long long x) {
  x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1;
  x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2;
  x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4;
  return __builtin_bswap64(x);
}
inline unsigned __brev(unsigned x) { return unsigned(__brevll(x) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned((unsigned long long)a * b >> 32);
}
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both = (unsigned long long)high << 32 | low;
  return unsigned(both << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both = (unsigned long long)high << 32 | low;
  return unsigned(both >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i);
    const unsigned byte = unsigned(both >> (8 * (choice & 7))) & 0xff;
    result |= (choice & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << (8 * i);
  }
  return result;
}

inline unsigned __float_as_uint(float x) {
  return cuda_on_cpu::from_slot<unsigned>(cuda_on_cpu::to_slot(x));
}
inline int __float_as_int(float x) { return cuda_on_cpu::from_slot<int>(cuda_on_cpu::to_slot(x)); }
inline float __uint_as_float(unsigned x) {
  return cuda_on_cpu::from_slot<float>(cuda_on_cpu::to_slot(x));
}
inline float __int_as_float(int x) {
  return cuda_on_cpu::from_slot<float>(cuda_on_cpu::to_slot(x));
}

namespace cuda_on_cpu {

// A float with an odd last bit where the number is none: rounded to half or bfloat16 it is what the
// number is.
inline float to_odd(double exact) {
  const float near = float(exact);
  if (double(near) == exact || exact != exact) return near;
  const bool above = __builtin_fabs(double(near)) > __builtin_fabs(exact);
  return __uint_as_float((__float_as_uint(near) - (above ? 1 : 0)) | 1u);
}

inline float fma_to_odd(float a, float b, float c) { return to_odd(double(a) * b + c); }

}  // namespace cuda_on_cpu

inline long long __double_as_longlong(double x) { return (long long)cuda_on_cpu::to_slot(x); }
inline double __longlong_as_double(long long x) {
  return cuda_on_cpu::from_slot<double>(uint64_t(x));
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, cuda_on_cpu::Exactly<T> value) {
  *address = value;
}
template <typename T>
void __stcg(T* address, cuda_on_cpu::Exactly<T> value) {
  *address = value;
}
