// Conversions, bit tricks and the few functions that the shim computes itself.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline void from_float(float value, __half* out) { *out = __float2half_rn(value); }
__device__ inline void from_float(float value, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(value);
}

template <typename T>
__global__ void widen(const T* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = to_float(x[i]);
}

template <typename T>
__global__ void narrow(const float* x, T* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) from_float(x[i], &out[i]);
}

__global__ void narrow_pairs(const float* x, __half* halves, __nv_bfloat16* brains, int num_pairs) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_pairs) return;
  const __half2 h = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
  const __nv_bfloat162 b = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  const float2 back = __half22float2(h);
  halves[2 * i] = __half(back.x);
  halves[2 * i + 1] = __high2half(h);
  brains[2 * i] = __low2bfloat16(b);
  brains[2 * i + 1] = __nv_bfloat16(__bfloat1622float2(b).y);
}

//   out  [size, 8]  unsigned
__global__ void bits(const unsigned* x, const unsigned* y, unsigned* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  unsigned* row = out + 8 * i;
  row[0] = __popc(x[i]);
  row[1] = __clz(x[i]);
  row[2] = __ffs(x[i]);
  row[3] = __brev(x[i]);
  row[4] = __umulhi(x[i], y[i]);
  const unsigned long long high =
      __umul64hi((unsigned long long)x[i] << 32 | y[i], (unsigned long long)y[i] << 32 | x[i]);
  row[5] = unsigned(high);
  row[6] = unsigned(high >> 32);
  row[7] = __float_as_uint(__uint_as_float(x[i] & 0x3fffffffu));
}

//   out  [size, 4]  float
__global__ void functions(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  sincospif(x[i], &out[4 * i], &out[4 * i + 1]);
  out[4 * i + 2] = rsqrtf(fabsf(x[i]) + 1.0f);
  out[4 * i + 3] = __fdividef(x[i], 3.0f);
}

//   out  [size, 4]  long long
__global__ void whole_numbers(const float* x, long long* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  out[4 * i] = __float2int_rn(x[i]);
  out[4 * i + 1] = __float2int_rz(x[i]);
  out[4 * i + 2] = __float2uint_rd(x[i]);
  out[4 * i + 3] = __float2ll_ru(x[i]);
}
