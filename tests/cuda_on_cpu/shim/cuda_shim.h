// What NVRTC gives a kernel without any include, for a host C++ compiler. Force-included before
// an unchanged kernels/*.cu file.
//
//   __shared__   is thread_local: static inside a function, and still allowed after `extern`, so
//                `extern __shared__ __align__(16) unsigned char shared[];` names the array below.
//                Dynamic shared memory therefore has one name and one type in all kernels.
//   A kernel is called once for each thread, on fibers: block.h.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CUDA_ON_CPU 1
#define __CUDACC__ 1
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static
#ifndef __shared__
#define __shared__ thread_local
#endif
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

#include "vectors.h"

namespace cuda_on_cpu {
// The most dynamic shared memory that any supported GPU gives a block (sm_90: 227 KiB), and room
// behind it for a canary.
constexpr size_t kMaxSharedBytes = 227 * 1024;
constexpr size_t kSharedGuardBytes = 1024;
}  // namespace cuda_on_cpu

// Clang has to be told that it needs no constructor; g++ is, by a flag.
#ifdef __clang__
#define CUDA_ON_CPU_CONSTANT require_constant_initialization,
#else
#define CUDA_ON_CPU_CONSTANT
#endif
extern thread_local unsigned char
    shared[cuda_on_cpu::kMaxSharedBytes + cuda_on_cpu::kSharedGuardBytes]
    __attribute__((CUDA_ON_CPU_CONSTANT aligned(128), visibility("hidden")));

#include "warp.h"
#include "bits.h"
#include "atomics.h"
#include "mathematics.h"
#include "signature.h"

#define __noinline__ __attribute__((noinline))  // last: the host's own headers use this word
