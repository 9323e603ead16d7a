// kernels/ptx.cuh for the CPU device. The last lane to come does the work of its whole warp; the
// others sleep meanwhile.
//
// A copy in the background reaches its place when its thread waits for it, and not before: until
// then the place holds NaN, so that a missing wait, a missing barrier behind the wait, and a
// missing barrier before the copy are all seen.
#pragma once
#include "block.h"

namespace cuda_on_cpu {

template <typename Operands>
void together(Place place, Operands* mine, void (*work)(Operands* const (&)[kWarpSize])) {
  Meeting* meeting = meet(place, ~0u, reinterpret_cast<uint64_t>(mine));
  if (meeting->mask != ~0u)
    fault("%s (%s:%d) needs a whole warp", place.primitive, base_name(place.file), place.line);
  if (meeting->unread == meeting->mask) {
    Operands* all[kWarpSize];
    for (int lane = 0; lane < kWarpSize; ++lane)
      all[lane] = reinterpret_cast<Operands*>(meeting->slot[lane]);
    work(all);
  }
  part(meeting);
}

struct MmaOperands {
  float* sum;
  const unsigned* a;
  unsigned b[2];
};

template <typename T>
void multiply(MmaOperands* const (&lanes)[kWarpSize]) {
  float a[16][16], b[8][16];  // b by columns
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < 4; ++k) {
        T pair[2];
        memcpy(pair, &lanes[lane]->a[k], 4);
        a[g + k % 2 * 8][2 * t + k / 2 * 8 + i] = float(pair[i]);
      }
      for (int k = 0; k < 2; ++k) {
        T pair[2];
        memcpy(pair, &lanes[lane]->b[k], 4);
        b[g][2 * t + k * 8 + i] = float(pair[i]);
      }
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane)
    for (int i = 0; i < 4; ++i) {
      const float* row = a[lane / 4 + i / 2 * 8];
      const float* column = b[lane % 4 * 2 + i % 2];
      float sum = lanes[lane]->sum[i];
      for (int k = 0; k < 16; ++k) sum += row[k] * column[k];
      lanes[lane]->sum[i] = sum;
    }
}

struct MatrixOperands {
  const unsigned char* row;
  unsigned* tile;
};

template <bool TRANSPOSED>
void load_matrices(MatrixOperands* const (&lanes)[kWarpSize]) {
  for (int lane = 0; lane < kWarpSize; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int g = lane / 4, t = lane % 4;
      unsigned short pair[2];
      for (int k = 0; k < 2; ++k) {
        const int row = TRANSPOSED ? 2 * t + k : g, column = TRANSPOSED ? g : 2 * t + k;
        memcpy(&pair[k], lanes[8 * i + row]->row + 2 * column, 2);
      }
      memcpy(&lanes[lane]->tile[i], pair, 4);
    }
}

struct TransposeOperands {
  unsigned tile, result;
};

inline void transpose_all(TransposeOperands* const (&lanes)[kWarpSize]) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    unsigned short pair[2], of_row[2];
    for (int k = 0; k < 2; ++k) {
      memcpy(of_row, &lanes[4 * (2 * t + k) + g / 2]->tile, 4);
      pair[k] = of_row[g % 2];
    }
    memcpy(&lanes[lane]->result, pair, 4);
  }
}

inline void check_vector(Place place, const void* address) {
  if (reinterpret_cast<uint64_t>(address) % 16)
    fault("misaligned address: %s (%s:%d) needs a multiple of 16 bytes", place.primitive,
          base_name(place.file), place.line);
}

inline void finish_copies(AsyncCopies& copies, int pending) {
  while (copies.num_groups > pending) {
    const int count = copies.group_end[0];
    for (int i = 0; i < count; ++i) {
      const AsyncCopies::Copy& copy = copies.copy[i];
      if (copy.from)
        memcpy(copy.to, copy.from, 16);
      else
        memset(copy.to, 0, 16);
    }
    copies.num_copies -= count;
    memmove(copies.copy, copies.copy + count, copies.num_copies * sizeof(copies.copy[0]));
    --copies.num_groups;
    for (int i = 0; i < copies.num_groups; ++i)
      copies.group_end[i] = copies.group_end[i + 1] - count;
  }
}

}  // namespace cuda_on_cpu

template <typename T>
void mma(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::MmaOperands mine = {sum, a, {b0, b1}};
  cuda_on_cpu::together({"mma", file, line}, &mine, cuda_on_cpu::multiply<T>);
}

inline void ldmatrix(unsigned (&tile)[4], const void* row, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::check_vector({"ldmatrix", file, line}, row);
  cuda_on_cpu::MatrixOperands mine = {static_cast<const unsigned char*>(row), tile};
  cuda_on_cpu::together({"ldmatrix", file, line}, &mine, cuda_on_cpu::load_matrices<false>);
}

inline void ldmatrix_trans(unsigned (&tile)[4], const void* row, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::check_vector({"ldmatrix_trans", file, line}, row);
  cuda_on_cpu::MatrixOperands mine = {static_cast<const unsigned char*>(row), tile};
  cuda_on_cpu::together({"ldmatrix_trans", file, line}, &mine, cuda_on_cpu::load_matrices<true>);
}

inline unsigned transpose(unsigned tile, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::TransposeOperands mine = {tile, 0};
  cuda_on_cpu::together({"transpose", file, line}, &mine, cuda_on_cpu::transpose_all);
  return mine.result;
}

inline void copy_async(void* shared_to, const void* from, bool exists, CUDA_ON_CPU_HERE) {
  cuda_on_cpu::check_vector({"copy_async", file, line}, shared_to);
  cuda_on_cpu::check_vector({"copy_async", file, line}, from);
  cuda_on_cpu::AsyncCopies& copies = cuda_on_cpu::current->copies;
  if (copies.num_copies == cuda_on_cpu::AsyncCopies::kMost)
    cuda_on_cpu::fault("copy_async (%s:%d): the CPU device holds %d copies of a thread",
                       cuda_on_cpu::base_name(file), line, cuda_on_cpu::AsyncCopies::kMost);
  copies.copy[copies.num_copies++] = {shared_to, exists ? from : nullptr};
  memset(shared_to, 0xff, 16);
}

inline void copy_async_commit(CUDA_ON_CPU_HERE) {
  cuda_on_cpu::AsyncCopies& copies = cuda_on_cpu::current->copies;
  if (copies.num_groups == cuda_on_cpu::AsyncCopies::kMost)
    cuda_on_cpu::fault("copy_async_commit (%s:%d): the CPU device holds %d groups of a thread",
                       cuda_on_cpu::base_name(file), line, cuda_on_cpu::AsyncCopies::kMost);
  copies.group_end[copies.num_groups++] = copies.num_copies;
}

template <int PENDING>
void copy_async_wait() {
  cuda_on_cpu::finish_copies(cuda_on_cpu::current->copies, PENDING);
}

inline void allow_next() {}

inline void wait_for_previous(CUDA_ON_CPU_HERE) {
  cuda_on_cpu::wait_for_previous({"wait_for_previous", file, line});
}

// As ex2.approx.ftz: subnormal operands and results become zero.
inline float exp2_approx(float x) {
  const float result = exp2f(fabsf(x) < 1.17549435e-38f ? 0.0f : x);
  return result < 1.17549435e-38f ? 0.0f : result;
}

inline unsigned and_or(unsigned a, unsigned b, unsigned c) { return (a & b) | c; }
