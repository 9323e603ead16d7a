"""Products with weights on CUDA: by our kernels for few rows, by cuBLAS for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch, vector_lanes
from llama_cu.ops.cuda_matvec import MAX_MATVEC_ROWS, Epilogue, Norm, can_norm, matvec
from llama_cu.ops.cuda_matvec_quantized import matvec_quantized, multiplies, multiplies_packed
from llama_cu.ops.cuda_quantized import PACKED, PackedMatrix, dequantize
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device

if TYPE_CHECKING:
    from llama_cu.ops.cuda_ops import CudaOps

Array = Any

_FLOAT32 = np.dtype(np.float32)


def linear(
    ops: CudaOps,
    x: Array,
    *,
    weight: Array | PackedMatrix,
    bias: Array | None,
    residual: Array | None,
) -> Array:
    """`Ops.linear`."""
    if multiplies_as_it_is(ops.device, x, weight):
        return _matvec(ops, x, weight=weight, bias=bias, residual=residual)
    early = not isinstance(weight, PACKED)
    weight = _expanded(ops, weight)
    shape = _product_shape(ops, x, weight)
    if residual is not None:
        check_array("linear: residual", residual, shape=shape, dtype=ops.dtype)
    if _are_few(x):
        return matvec(ops.device, x, weight=weight, bias=bias, residual=residual, early=early)
    out = ops.empty(shape) if residual is None else residual
    if bias is not None:
        _launch_bias(ops, "fill_bias" if residual is None else "add_bias", bias, out=out)
    adds = bias is not None or residual is not None
    _multiply(ops.device, x, weight, out=out, beta=1.0 if adds else 0.0)
    return out


def logits(ops: CudaOps, x: Array, *, weight: Array | PackedMatrix) -> Array:
    """`Ops.logits`."""
    if multiplies_as_it_is(ops.device, x, weight) or _stays_packed(ops, x, weight):
        return _matvec(ops, x, weight=weight, epilogue=Epilogue.FLOAT32)
    weight = _expanded(ops, weight)
    out = ops.device.empty(_product_shape(ops, x, weight), _FLOAT32)
    _multiply(ops.device, x, weight, out=out, beta=0.0)
    return out


def norm_product(
    ops: CudaOps,
    x: Array,
    *,
    norm: Norm,
    weight: Array | PackedMatrix,
    bias: Array | None = None,
    epilogue: Epilogue = Epilogue.STORE,
) -> Array:
    """The product of rows that `multiplies_as_it_is` takes, normed on the way or else before."""
    if can_norm(ops.device, x):
        return _matvec(ops, x, weight=weight, bias=bias, norm=norm, epilogue=epilogue)
    normed = ops.rms_norm(x, norm.weight, norm.eps)
    return _matvec(ops, normed, weight=weight, bias=bias, epilogue=epilogue)


def multiplies_as_it_is(device: Device, x: Array, weight: Array | PackedMatrix) -> bool:
    """Whether a kernel of ours reads the weight as it is."""
    return multiplies(device, x) if isinstance(weight, PACKED) else _are_few(x)


def _stays_packed(ops: CudaOps, x: Array, weight: Array | PackedMatrix) -> bool:
    """Whether a head, the largest matrix of all, is multiplied by as it is for any rows.

    Expanded it can be more than what a device has left: 1 GB where there are 128k tokens.
    """
    packed = isinstance(weight, PACKED) and multiplies_packed(ops.device, ops.dtype)
    return packed and len(x) > 0


def _are_few(x: Array) -> bool:
    return 0 < len(x) <= MAX_MATVEC_ROWS


def _matvec(ops: CudaOps, x: Array, *, weight: Array | PackedMatrix, **options: Any) -> Array:
    if isinstance(weight, PACKED):
        return matvec_quantized(ops.device, x, weight=weight, **options)
    _product_shape(ops, x, weight)
    return matvec(ops.device, x, weight=weight, **options)


def _expanded(ops: CudaOps, weight: Array | PackedMatrix) -> Array:
    if isinstance(weight, PACKED):
        return dequantize(ops.device, weight, dtype=ops.dtype)
    return weight


def _product_shape(ops: CudaOps, x: Array, weight: Array) -> tuple[int, int]:
    shapes = x.ndim == 2 and weight.ndim == 2 and x.shape[1] == weight.shape[1]
    check(shapes, "linear: x {} and weight {} do not fit", x.shape, weight.shape)
    dtypes = x.dtype == ops.dtype and weight.dtype == ops.dtype
    check(dtypes, "linear: want {}, got x {}, weight {}", ops.dtype, x.dtype, weight.dtype)
    return x.shape[0], weight.shape[0]


def _launch_bias(ops: CudaOps, name: str, bias: Array, *, out: Array) -> None:
    num_rows, size = out.shape
    check_array("linear: bias", bias, shape=(size,), dtype=ops.dtype)
    lanes = vector_lanes(ops.dtype, size)
    kernel = ops.device.kernel("bias", name, C_TYPES[ops.dtype.name], lanes)
    grid = (num_rows, ceil_div(size // lanes, 256))
    launch(kernel, grid, 256, bias, out, np.int32(size))


def _multiply(device: Device, x: Array, weight: Array, *, out: Array, beta: float) -> None:
    if x.shape[0]:
        device.gemm(x, weight, out, beta=beta)
