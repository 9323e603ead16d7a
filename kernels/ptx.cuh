// The instructions of the tensor cores, of copies in the background and of overlapped launches, for
// which CUDA C++ has no functions: the project's only inline PTX. sm_80 and newer, but for and_or
// and the overlap. Include it as <ptx.cuh>: a CPU that runs the kernels puts its own in place.
#pragma once

#include "common.cuh"

// sum += a b for a 16 x 16 tile a and a 16 x 8 tile b of T, in float32. With g = lane / 4 and
// t = lane % 4 a lane has, two elements a register, lower column or row first:
//   a    rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8
//   b    rows 2t, 2t + 8 at column g
//   sum  row g at columns 2t, 2t + 1; row g + 8 at columns 2t, 2t + 1
template <typename T>
__device__ inline void mma(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ inline void mma<__half>(float (&sum)[4], const unsigned (&a)[4], unsigned b0,
                                   unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void mma<__nv_bfloat16>(float (&sum)[4], const unsigned (&a)[4], unsigned b0,
                                          unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 tiles of 2-byte elements. Lane 8 i + r says where row r of tile i begins in shared
// memory (a multiple of 16 bytes); tile[i] gets elements 2t and 2t + 1 of its row g.
__device__ inline void ldmatrix(unsigned (&tile)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(address));
}

// The same tiles transposed: tile[i] gets elements g of its rows 2t and 2t + 1.
__device__ inline void ldmatrix_trans(unsigned (&tile)[4], const void* row) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(address));
}

// The transpose of an 8 x 8 tile of 2-byte elements, of which a lane has elements 2t and 2t + 1 of
// row g, before and after.
__device__ inline unsigned transpose(unsigned tile) {
  unsigned result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(tile));
  return result;
}

// Begins to copy 16 bytes to shared memory past the registers, or to fill them with zeros where
// there is nothing to copy. Both addresses are multiples of 16.
__device__ inline void copy_async(void* shared_to, const void* from, bool exists) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared_to));
  const int num_bytes = exists ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(num_bytes)
               : "memory");
}

// Makes a group of this thread's copies since the last one.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are under way. What other threads copied
// is there after their wait and a barrier.
template <int PENDING>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// A kernel that is launched to overlap (sm_90 and newer; else both calls do nothing) begins once
// every block of the kernel before it has called allow_next() or ended. Until wait_for_previous()
// it may neither read what that kernel or one before it writes, nor write anything; behind it all
// of them are done. Every thread must call it, so that a kernel's end is the end of all before it.
__device__ inline void allow_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// a & b | c in one instruction, for which the compiler takes two where b and c are constants.
__device__ inline unsigned and_or(unsigned a, unsigned b, unsigned c) {
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

// 2^x to 2 units in the last place; exact at 0, and 0 at -inf and where the result is subnormal.
// exp2f takes four instructions, three of them for subnormals.
__device__ inline float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
