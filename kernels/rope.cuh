// The rotation of rotary position embedding, one for all kernels that turn heads.
#pragma once

// (x, y) turned by an angle, in place. The fused products are asked for, so that no compiler
// chooses others in one of the kernels.
__device__ inline void turn(float& x, float& y, float cosine, float sine) {
  const float turned = fmaf(x, cosine, -(y * sine));
  y = fmaf(y, cosine, x * sine);
  x = turned;
}
