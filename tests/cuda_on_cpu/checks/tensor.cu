// The instructions of ptx.cuh, each thread writing what it got.
#include <ptx.cuh>

//   a    [16, 16]  T
//   b    [16, 8]   T, for TRANSPOSED [8, 16]: its transpose
//   sum  [16, 8]   float, gets the product on top
// One warp. Rows in shared memory are 32 bytes apart, those of b 16.
template <typename T, int TRANSPOSED>
__global__ void product(const T* a, const T* b, float* sum) {
  __shared__ __align__(16) T a_tile[16 * 16];
  __shared__ __align__(16) T b_tile[16 * 16];
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  copy_async(a_tile + 8 * lane, a + 8 * lane, true);
  copy_async(b_tile + 8 * lane, b + 8 * (lane % 16), lane < 16);
  copy_async_commit();
  copy_async_wait<0>();
  __syncwarp();
  unsigned a_part[4], b_part[4];
  ldmatrix(a_part, a_tile + lane % 16 * 16 + lane / 16 * 8);
  // The second half of b_tile is zeros; its matrices are read and not used.
  if (TRANSPOSED)
    ldmatrix(b_part, b_tile + lane % 8 * 16 + lane / 8 % 2 * 8);
  else
    ldmatrix_trans(b_part, b_tile + lane % 16 * 8);
  float own[4];
  for (int i = 0; i < 4; ++i) own[i] = sum[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma<T>(own, a_part, b_part[0], b_part[1]);
  for (int i = 0; i < 4; ++i) sum[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = own[i];
}

//   x, out  [8, 8]  2-byte elements; one warp
__global__ void transposed(const unsigned* x, unsigned* out) {
  out[threadIdx.x] = transpose(x[threadIdx.x]);
}

//   x    [4, 64, 4]  float: four groups of copies, of which PENDING may be under way at the end
//   out  [4, 64, 4]  float
template <int PENDING>
__global__ void groups_of_copies(const float* x, float* out) {
  __shared__ __align__(16) float tile[4 * 256];
  for (int group = 0; group < 4; ++group) {
    const int at = group * 256 + 4 * threadIdx.x;
    copy_async(tile + at, x + at, true);
    copy_async_commit();
  }
  copy_async_wait<PENDING>();
  for (int group = 0; group < 4; ++group)
    for (int i = 0; i < 4; ++i) {
      const int at = group * 256 + 4 * threadIdx.x + i;
      out[at] = tile[at];
    }
}

//   x, out  [size]  float
__global__ void powers_of_two(const float* x, float* out, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) out[i] = exp2_approx(x[i]);
}
