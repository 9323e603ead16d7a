// __half as cuda_fp16.h has it: two bytes, arithmetic in float with one rounding to nearest even.
#pragma once

struct __half_raw {
  unsigned short x;
};

namespace cuda_on_cpu {

inline float half_to_float(unsigned short bits) {
  const unsigned magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude > 0x7c00u) return __uint_as_float(sign | 0x7fffffffu);
  if (magnitude == 0x7c00u) return __uint_as_float(sign | 0x7f800000u);
  // Exponent and fraction in float's places are too small by 2^112; the product is exact.
  const float scaled = __uint_as_float(magnitude << 13) * 5.192296858534828e33f;
  return __uint_as_float(__float_as_uint(scaled) | sign);
}

inline unsigned short float_to_half(float value) {
  const unsigned bits = __float_as_uint(value);
  const unsigned magnitude = bits & 0x7fffffffu;
  const unsigned short sign = (unsigned short)(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fffu;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and up round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 1/2 leaves the subnormal half, rounded, in the last bits.
    const float rounded = __uint_as_float(magnitude) + 0.5f;
    return (unsigned short)(sign | (__float_as_uint(rounded) - 0x3f000000u));
  }
  const unsigned nearest = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return (unsigned short)(sign | ((nearest - 0x38000000u) >> 13));
}

}  // namespace cuda_on_cpu

struct __align__(2) __half {
  unsigned short __x;
  __half() = default;
  __half(const __half_raw& raw) : __x(raw.x) {}
  __half(float value) : __x(cuda_on_cpu::float_to_half(value)) {}
  __half(double value) : __x(cuda_on_cpu::float_to_half(float(value))) {}
  __half(int value) : __x(cuda_on_cpu::float_to_half(float(value))) {}
  __half(unsigned value) : __x(cuda_on_cpu::float_to_half(float(value))) {}
  operator float() const { return cuda_on_cpu::half_to_float(__x); }
  operator __half_raw() const { return {__x}; }
};
using half = __half;

struct __align__(4) __half2 {
  __half x, y;
  __half2() = default;
  __half2(__half x, __half y) : x(x), y(y) {}
};
using half2 = __half2;

inline float __half2float(__half value) { return float(value); }
inline __half __float2half(float value) { return __half(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float2half2_rn(float value) { return {__half(value), __half(value)}; }
inline __half2 __float22half2_rn(float2 value) { return {__half(value.x), __half(value.y)}; }
inline float2 __half22float2(__half2 value) { return {float(value.x), float(value.y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half value) { return {value, value}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half __low2half(__half2 value) { return value.x; }
inline __half __high2half(__half2 value) { return value.y; }
inline float __low2float(__half2 value) { return float(value.x); }
inline float __high2float(__half2 value) { return float(value.y); }
inline unsigned short __half_as_ushort(__half value) { return value.__x; }
inline __half __ushort_as_half(unsigned short bits) { return __half(__half_raw{bits}); }

inline __half operator+(__half a, __half b) { return __half(float(a) + float(b)); }
inline __half operator-(__half a, __half b) { return __half(float(a) - float(b)); }
inline __half operator*(__half a, __half b) { return __half(float(a) * float(b)); }
inline __half operator/(__half a, __half b) { return __half(float(a) / float(b)); }
inline __half operator-(__half a) { return __ushort_as_half(a.__x ^ 0x8000u); }
inline bool operator<(__half a, __half b) { return float(a) < float(b); }
inline bool operator>(__half a, __half b) { return float(a) > float(b); }
inline bool operator<=(__half a, __half b) { return float(a) <= float(b); }
inline bool operator>=(__half a, __half b) { return float(a) >= float(b); }
inline bool operator==(__half a, __half b) { return float(a) == float(b); }
inline bool operator!=(__half a, __half b) { return float(a) != float(b); }
inline __half __hadd(__half a, __half b) { return a + b; }
inline __half __hsub(__half a, __half b) { return a - b; }
inline __half __hmul(__half a, __half b) { return a * b; }
inline __half __hdiv(__half a, __half b) { return a / b; }
inline __half __hmax(__half a, __half b) { return __half(fmaxf(float(a), float(b))); }
inline __half __hmin(__half a, __half b) { return __half(fminf(float(a), float(b))); }
inline bool __hisnan(__half value) { return isnan(float(value)); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {a.x + b.x, a.y + b.y}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {a.x * b.x, a.y * b.y}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__half(cuda_on_cpu::fma_to_odd(a.x, b.x, c.x)),
          __half(cuda_on_cpu::fma_to_odd(a.y, b.y, c.y))};
}
