"""Quantized matrices on a device: made by kernels, multiplied as they are or expanded before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch
from llama_cu.ops.cuda_matvec import Epilogue, Norm
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device
from llama_cu.quantized import Scheme, can_quantize, scale_dtype

Array = Any

# Rows of x that one reading of the weight serves; beyond, it is expanded and cuBLAS multiplies.
MAX_QUANTIZED_ROWS = 32
MIN_ARCH = 80

# As in packed.cuh and in matvec_quantized.cu.
_TILE_ROWS = 16
_COLUMNS = {4: 64, 8: 32}
_WARPS = 8
_ROW_TILES = (1, 2, 4)
_QUANT_THREADS = 128
_MAX_TILES = 65535

# Warps that fill 132 multiprocessors: below, more of them share a tile. A constant, not the
# device's, because the split decides the order of the sums.
_FILLING_WARPS = 2048
# A split leaves each warp at least so many blocks of columns.
_MIN_BLOCKS = 2


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A matrix [num_rows, in_size] on a device, packed as packed.cuh says."""

    scheme: Scheme
    shape: tuple[int, int]
    paired: bool  # gate and up: a tile has rows of both
    quants: Array  # uint8 [num_tiles, num_blocks, 512]
    scales: Array  # [num_tiles, num_blocks, 64], or [num_tiles, 16] for 8 bits

    @property
    def nbytes(self) -> int:
        return int(self.quants.nbytes + self.scales.nbytes)

    @property
    def num_tiles(self) -> int:
        return int(self.quants.shape[0])

    @property
    def num_blocks(self) -> int:
        return int(self.quants.shape[1])


def quantize(
    device: Device, weight: Array, *, scheme: Scheme, paired: bool, flag: Array
) -> QuantizedMatrix:
    """The packed form of a matrix [num_rows, in_size], the numbers of `quantized.quantize`.

    `flag` [1] int32 becomes 1 where the matrix has a value that `quantize` refuses.
    """
    num_rows, in_size = weight.shape
    check_array("quantize: weight", weight, shape=(num_rows, in_size), dtype=weight.dtype)
    check(can_quantize(weight.shape), "quantize: rows of {} are no whole groups", weight.shape)
    check(not paired or num_rows % 2 == 0, "quantize: gate and up differ in {}", weight.shape)
    num_tiles, num_blocks = ceil_div(num_rows, _TILE_ROWS), _num_blocks(scheme, in_size)
    check(num_tiles <= _MAX_TILES, "quantize: {} rows are too many", num_rows)
    quants = device.empty((num_tiles, num_blocks, 512), np.dtype(np.uint8))
    of_blocks = (num_tiles, num_blocks, 64) if scheme.bits == 4 else (num_tiles, _TILE_ROWS)
    scales = device.empty(of_blocks, scale_dtype(weight.dtype))
    c_type = C_TYPES[weight.dtype.name]
    sizes = (np.int32(num_rows), np.int32(in_size), np.int32(paired))
    if scheme.bits == 8:
        kernel = device.kernel("quantize", "row_scales", c_type)
        launch(kernel, (num_tiles * _TILE_ROWS,), 256, weight, scales, flag, *sizes)
    kernel = device.kernel("quantize", "quantize", c_type, scheme.bits)
    launch(kernel, _grid(quants), _QUANT_THREADS, weight, quants, scales, flag, *sizes)
    return QuantizedMatrix(scheme, (num_rows, in_size), paired, quants, scales)


def dequantize(device: Device, matrix: QuantizedMatrix, *, dtype: np.dtype[Any]) -> Array:
    """The matrix that it stands for; `dtype` is that of the ops."""
    out = device.empty(matrix.shape, dtype)
    kernel = device.kernel("quantize", "dequantize", C_TYPES[dtype.name], matrix.scheme.bits)
    sizes = (*map(np.int32, matrix.shape), np.int32(matrix.paired))
    grid = _grid(matrix.quants)
    launch(kernel, grid, _QUANT_THREADS, matrix.quants, matrix.scales, out, *sizes)
    return out


def multiplies(device: Device, x: Array) -> bool:
    """Whether `matvec_quantized` takes these rows; else the matrix is expanded."""
    return device.arch >= MIN_ARCH and x.itemsize == 2 and 0 < len(x) <= MAX_QUANTIZED_ROWS


def split_log2(scheme: Scheme, shape: tuple[int, int]) -> int:
    """How many warps share a tile, as a power of two. It depends on the weight alone."""
    tiles, blocks = ceil_div(shape[0], _TILE_ROWS), _num_blocks(scheme, shape[1])
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
    weight: QuantizedMatrix,
    bias: Array | None = None,
    residual: Array | None = None,
    norm: Norm | None = None,
    epilogue: Epilogue = Epilogue.STORE,
) -> Array:
    """`cuda_matvec.matvec` of a quantized weight and 1 to MAX_QUANTIZED_ROWS rows of x.

    With a norm at most 8 rows. ValueError for arrays that do not fit.
    """
    if residual is not None:
        epilogue = Epilogue.ADD
    (num_rows, in_size), (weight_rows, _) = x.shape, weight.shape
    check_array("linear: x", x, shape=(num_rows, weight.shape[1]), dtype=x.dtype)
    check(multiplies(device, x), "linear: {} {} and a quantized weight", x.shape, x.dtype)
    same = weight.paired == (epilogue is Epilogue.SWIGLU)
    check(same, "linear: the quantized weight is{} gate and up", "" if weight.paired else " not")
    out_size = weight_rows // 2 if weight.paired else weight_rows
    dtype = np.dtype(np.float32) if epilogue is Epilogue.FLOAT32 else x.dtype
    check(num_rows * out_size < 2**31, "linear: {} products are too many", (num_rows, out_size))
    out = device.empty((num_rows, out_size), dtype) if residual is None else residual
    check_array("linear: residual", out, shape=(num_rows, out_size), dtype=dtype)
    if bias is not None:
        check_array("linear: bias", bias, shape=(weight_rows,), dtype=x.dtype)
    if norm is not None:
        check_array("rms_norm: weight", norm.weight, shape=(in_size,), dtype=x.dtype)
        check(num_rows <= 8, "linear: {} rows cannot be normed on the way", num_rows)
    split = split_log2(weight.scheme, weight.shape)
    row_tiles = next(n for n in _ROW_TILES if 8 * n >= num_rows)
    args = (C_TYPES[x.dtype.name], weight.scheme.bits, row_tiles, int(norm is not None))
    kernel = device.kernel("matvec_quantized", "matvec_quantized", *args)
    outs = (None, out) if epilogue is Epilogue.FLOAT32 else (out, None)
    arrays = (x, norm.weight if norm else None, weight.quants, weight.scales, bias, *outs)
    sizes = (np.int32(num_rows), np.int32(in_size), np.int32(out_size))
    ends = (np.float32(norm.eps if norm else 0), np.int32(split), np.int32(epilogue))
    shared_bytes = 0 if norm is None else (num_rows + 1) * in_size * x.itemsize
    grid = (ceil_div(weight.num_tiles << split, _WARPS),)
    launch(kernel, grid, 32 * _WARPS, *arrays, *sizes, *ends, shared_bytes=shared_bytes)
    return out


def packed_bytes(scheme: Scheme, shape: tuple[int, int]) -> int:
    """Bytes of a matrix once it is packed."""
    tiles, blocks = ceil_div(shape[0], _TILE_ROWS), _num_blocks(scheme, shape[1])
    scales = tiles * blocks * 128 if scheme.bits == 4 else tiles * 2 * _TILE_ROWS
    return tiles * blocks * 512 + scales


def _num_blocks(scheme: Scheme, in_size: int) -> int:
    return ceil_div(in_size, _COLUMNS[scheme.bits])


def _grid(quants: Array) -> tuple[int, int]:
    num_tiles, num_blocks = quants.shape[:2]
    return ceil_div(num_blocks, _QUANT_THREADS // 32), num_tiles
