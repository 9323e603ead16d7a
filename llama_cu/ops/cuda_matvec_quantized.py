"""Products with quantized matrices as they are, kernels/matvec_quantized.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch
from llama_cu.ops.cuda_matvec import Epilogue, Norm
from llama_cu.ops.cuda_quantized import (
    TILE_ROWS,
    PackedMatrix,
    QuantizedMatrix,
    blocks_of_columns,
    template_of,
)
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device
from llama_cu.quantized import Form

Array = Any

# Rows of x that one reading of the weight serves.
READING_ROWS = 32
# Up to as many the weight is read several times; beyond, it is expanded and cuBLAS multiplies. To
# read 4 or 8 bits four times is to move half as much as to read them once, to write 16 and to read
# those; and what is not expanded needs no memory.
MAX_QUANTIZED_ROWS = 128
MIN_ARCH = 80

# As in matvec_quantized.cu.
_WARPS = 8
_ROW_TILES = (1, 2, 4)

# Warps that fill 132 multiprocessors: below, more of them share a tile. A constant, not the
# device's, because the split decides the order of the sums.
_FILLING_WARPS = 2048
# A split leaves each warp at least so many blocks of columns.
_MIN_BLOCKS = 2


def multiplies(device: Device, x: Array) -> bool:
    """Whether `matvec_quantized` takes these rows; else the matrix is expanded."""
    return multiplies_packed(device, x.dtype) and 0 < len(x) <= MAX_QUANTIZED_ROWS


def multiplies_packed(device: Device, dtype: np.dtype[Any]) -> bool:
    """Whether it takes any rows of this dtype."""
    return device.arch >= MIN_ARCH and dtype.itemsize == 2


def split_log2(form: Form, shape: tuple[int, int]) -> int:
    """How many warps share a tile, as a power of two. It depends on the weight alone."""
    tiles, blocks = ceil_div(shape[0], TILE_ROWS), blocks_of_columns(form, shape[1])
    split = 0
    while (
        2 << split <= _WARPS
        and tiles << split < _FILLING_WARPS
        and blocks >= _MIN_BLOCKS << (split + 1)
    ):
        split += 1
    return split


def matvec_quantized(
    device: Device,
    x: Array,
    *,
    weight: PackedMatrix,
    bias: Array | None = None,
    residual: Array | None = None,
    norm: Norm | None = None,
    epilogue: Epilogue = Epilogue.STORE,
) -> Array:
    """`cuda_matvec.matvec` of a quantized weight and any number of rows of x.

    With a norm at most 8 rows. ValueError for arrays that do not fit.
    """
    if residual is not None:
        epilogue = Epilogue.ADD
    (num_rows, in_size), (weight_rows, _) = x.shape, weight.shape
    check_array("linear: x", x, shape=(num_rows, weight.shape[1]), dtype=x.dtype)
    fits = multiplies_packed(device, x.dtype) and num_rows > 0
    check(fits, "linear: {} {} and a quantized weight", x.shape, x.dtype)
    paired = epilogue is Epilogue.SWIGLU
    same = all(part.paired == paired for part in weight.parts)
    check(same, "linear: the quantized weight is{} gate and up", " not" if paired else "")
    out_size = weight_rows // 2 if paired else weight_rows
    dtype = np.dtype(np.float32) if epilogue is Epilogue.FLOAT32 else x.dtype
    check(num_rows * out_size < 2**31, "linear: {} products are too many", (num_rows, out_size))
    out = device.empty((num_rows, out_size), dtype) if residual is None else residual
    check_array("linear: residual", out, shape=(num_rows, out_size), dtype=dtype)
    if bias is not None:
        check_array("linear: bias", bias, shape=(weight_rows,), dtype=x.dtype)
    if norm is not None:
        check_array("rms_norm: weight", norm.weight, shape=(in_size,), dtype=x.dtype)
        check(num_rows <= 8, "linear: {} rows cannot be normed on the way", num_rows)
    first = 0
    for part in weight.parts:
        end = first + (out_size if paired else part.shape[0])
        own_bias = bias if bias is None or paired else bias[first:end]
        for row in range(0, num_rows, READING_ROWS):
            rows = slice(row, row + READING_ROWS)
            _launch_product(device, x[rows], part, own_bias, norm, epilogue, out[rows, first:end])
        first = end
    return out


def _launch_product(
    device: Device,
    x: Array,
    weight: QuantizedMatrix,
    bias: Array | None,
    norm: Norm | None,
    epilogue: Epilogue,
    out: Array,
) -> None:
    """Of up to READING_ROWS rows; `out` are columns of an array that may have others too."""
    (num_rows, in_size), out_size = x.shape, out.shape[1]
    split = split_log2(weight.form, weight.shape)
    row_tiles = next(n for n in _ROW_TILES if 8 * n >= num_rows)
    args = (*template_of(weight.form), row_tiles, int(norm is not None))
    kernel = device.kernel("matvec_quantized", "matvec_quantized", C_TYPES[x.dtype.name], *args)
    outs = (None, out) if epilogue is Epilogue.FLOAT32 else (out, None)
    arrays = (x, norm.weight if norm else None, weight.quants, weight.scales, bias, *outs)
    out_stride = out.strides[0] // out.itemsize
    sizes = tuple(map(np.int32, (num_rows, in_size, out_size, out_stride)))
    ends = (np.float32(norm.eps if norm else 0), np.int32(split), np.int32(epilogue))
    shared_bytes = 0 if norm is None else (num_rows + 1) * in_size * x.itemsize
    grid = (ceil_div(weight.num_tiles << split, _WARPS),)
    launch(kernel, grid, 32 * _WARPS, *arrays, *sizes, *ends, shared_bytes=shared_bytes)
