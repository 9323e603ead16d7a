// The mathematical functions that CUDA declares without an include. Declared by hand: <cmath>
// costs half a second of every compilation.
#pragma once

extern "C" {
float expf(float) noexcept;
float exp2f(float) noexcept;
float exp10f(float) noexcept;
float expm1f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float log10f(float) noexcept;
float log1pf(float) noexcept;
float sqrtf(float) noexcept;
float fabsf(float) noexcept;
float sinf(float) noexcept;
float cosf(float) noexcept;
float tanf(float) noexcept;
float tanhf(float) noexcept;
float erff(float) noexcept;
float powf(float, float) noexcept;
float floorf(float) noexcept;
float ceilf(float) noexcept;
float roundf(float) noexcept;
float rintf(float) noexcept;
float truncf(float) noexcept;
float fmodf(float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
float copysignf(float, float) noexcept;
float ldexpf(float, int) noexcept;
double exp(double) noexcept;
double exp2(double) noexcept;
double log(double) noexcept;
double log2(double) noexcept;
double sqrt(double) noexcept;
double fabs(double) noexcept;
double sin(double) noexcept;
double cos(double) noexcept;
double pow(double, double) noexcept;
double floor(double) noexcept;
double ceil(double) noexcept;
double rint(double) noexcept;
double trunc(double) noexcept;
double fmax(double, double) noexcept;
double fmin(double, double) noexcept;
double fma(double, double, double) noexcept;
double ldexp(double, int) noexcept;
int abs(int) noexcept;
}

#define CUDA_ON_CPU_FLOAT_OVERLOAD(name) \
  inline float name(float x) { return name##f(x); }
CUDA_ON_CPU_FLOAT_OVERLOAD(exp)
CUDA_ON_CPU_FLOAT_OVERLOAD(exp2)
CUDA_ON_CPU_FLOAT_OVERLOAD(log)
CUDA_ON_CPU_FLOAT_OVERLOAD(log2)
CUDA_ON_CPU_FLOAT_OVERLOAD(sqrt)
CUDA_ON_CPU_FLOAT_OVERLOAD(fabs)
CUDA_ON_CPU_FLOAT_OVERLOAD(sin)
CUDA_ON_CPU_FLOAT_OVERLOAD(cos)
CUDA_ON_CPU_FLOAT_OVERLOAD(floor)
CUDA_ON_CPU_FLOAT_OVERLOAD(ceil)
CUDA_ON_CPU_FLOAT_OVERLOAD(rint)
CUDA_ON_CPU_FLOAT_OVERLOAD(trunc)
#undef CUDA_ON_CPU_FLOAT_OVERLOAD
inline float pow(float x, float y) { return powf(x, y); }
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }

inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }

#define CUDA_ON_CPU_MIN_MAX(T)                     \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline void sincosf(float x, float* sine, float* cosine) {
  *sine = sinf(x);
  *cosine = cosf(x);
}
inline void __sincosf(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
// sin and cos of pi x: exact at multiples of 1/2, because x is reduced before pi comes in.
inline void sincospif(float x, float* sine, float* cosine) {
  const double reduced = double(x) - 2.0 * rint(double(x) * 0.5);
  const double angle = reduced * 3.14159265358979323846;
  const double twice = reduced * 2.0;
  const bool exact = twice == rint(twice);
  const int quarter = exact ? int(twice) & 3 : 0;
  *sine = exact ? (quarter == 1   ? 1.0f
                   : quarter == 3 ? -1.0f
                                  : copysignf(0.0f, x))
                : float(sin(angle));
  *cosine = exact ? (quarter == 0 ? 1.0f : quarter == 2 ? -1.0f : 0.0f) : float(cos(angle));
}
inline float sinpif(float x) {
  float sine, cosine;
  sincospif(x, &sine, &cosine);
  return sine;
}
inline float cospif(float x) {
  float sine, cosine;
  sincospif(x, &sine, &cosine);
  return cosine;
}

// Conversions saturate on a GPU, and NaN becomes 0; in C++ both are undefined.
namespace cuda_on_cpu {
template <typename To>
To saturate_to(double whole) {
  const bool is_signed = To(-1) < To(0);
  const double limit = ldexp(1.0, int(8 * sizeof(To)) - is_signed);
  const To lowest = is_signed ? To(1ull << (8 * sizeof(To) - 1)) : To(0);
  if (whole >= limit) return To(~lowest);
  if (whole < double(lowest)) return lowest;
  return whole == whole ? To(whole) : To(0);
}
}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_CONVERT(T, name)                                                              \
  inline T __float2##name##_rn(float x) { return cuda_on_cpu::saturate_to<T>(rint(double(x))); }  \
  inline T __float2##name##_rz(float x) { return cuda_on_cpu::saturate_to<T>(trunc(double(x))); } \
  inline T __float2##name##_rd(float x) { return cuda_on_cpu::saturate_to<T>(floor(double(x))); } \
  inline T __float2##name##_ru(float x) { return cuda_on_cpu::saturate_to<T>(ceil(double(x))); }  \
  inline T __double2##name##_rn(double x) { return cuda_on_cpu::saturate_to<T>(rint(x)); }        \
  inline T __double2##name##_rz(double x) { return cuda_on_cpu::saturate_to<T>(trunc(x)); }       \
  inline float __##name##2float_rn(T x) { return float(x); }
CUDA_ON_CPU_CONVERT(int, int)
CUDA_ON_CPU_CONVERT(unsigned, uint)
CUDA_ON_CPU_CONVERT(long long, ll)
CUDA_ON_CPU_CONVERT(unsigned long long, ull)
#undef CUDA_ON_CPU_CONVERT
