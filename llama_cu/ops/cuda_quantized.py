"""Quantized matrices on a device: made by kernels, multiplied as they are or expanded before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.gguf_quants import BlockType
from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch
from llama_cu.ops.cuda_matvec import Epilogue, Norm
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device
from llama_cu.quantized import Form, Scheme, can_quantize, scale_dtype

Array = Any

# Rows of x that one reading of the weight serves; beyond, it is expanded and cuBLAS multiplies.
MAX_QUANTIZED_ROWS = 32
MIN_ARCH = 80

# As in packed.cuh and in matvec_quantized.cu.
_TILE_ROWS = 16
_COLUMNS = {4: 64, 6: 64, 8: 32}
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

    form: Form
    shape: tuple[int, int]
    paired: bool  # gate and up: a tile has rows of both
    quants: Array  # uint8 [num_tiles, num_blocks, bytes of a block]
    scales: Array  # [num_tiles, num_blocks, of a block], or [num_tiles, 16] where rows share one

    @property
    def parts(self) -> tuple[QuantizedMatrix, ...]:
        return (self,)

    @property
    def nbytes(self) -> int:
        return int(self.quants.nbytes + self.scales.nbytes)

    @property
    def num_tiles(self) -> int:
        return int(self.quants.shape[0])

    @property
    def num_blocks(self) -> int:
        return int(self.quants.shape[1])


@dataclass(frozen=True, eq=False)
class StackedMatrix:
    """Matrices of several forms, one after the other along the first axis: q, k and v of a file."""

    parts: tuple[QuantizedMatrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


PackedMatrix = QuantizedMatrix | StackedMatrix
PACKED = (QuantizedMatrix, StackedMatrix)


def stacked(parts: Sequence[QuantizedMatrix]) -> PackedMatrix:
    """One matrix of several, which have the same in_size."""
    return parts[0] if len(parts) == 1 else StackedMatrix(tuple(parts))


def quantize(
    device: Device, weight: Array, *, scheme: Scheme, paired: bool, flag: Array
) -> QuantizedMatrix:
    """The packed form of a matrix [num_rows, in_size], the numbers of `quantized.quantize`.

    `flag` [1] int32 becomes 1 where the matrix has a value that `quantize` refuses.
    """
    check_array("quantize: weight", weight, shape=weight.shape, dtype=weight.dtype)
    check(can_quantize(weight.shape), "quantize: rows of {} are no whole groups", weight.shape)
    packed = _empty(device, weight.shape, form=scheme.form, paired=paired, dtype=weight.dtype)
    c_type = C_TYPES[weight.dtype.name]
    sizes = (*map(np.int32, weight.shape), np.int32(paired))
    if scheme.form.group == 0:
        kernel = device.kernel("quantize", "row_scales", c_type)
        grid = (packed.num_tiles * _TILE_ROWS,)
        launch(kernel, grid, 256, weight, packed.scales, flag, *sizes)
    kernel = device.kernel("quantize", "quantize", c_type, scheme.form.bits)
    outs = (packed.quants, packed.scales, flag)
    launch(kernel, _grid(packed), _QUANT_THREADS, weight, *outs, *sizes)
    return packed


def repack(
    device: Device,
    raw: Array,
    *,
    block_type: BlockType,
    in_size: int,
    paired: bool,
    dtype: np.dtype[Any],
    flag: Array,
) -> QuantizedMatrix:
    """The packed form of blocks of a GGUF file, uint8 [num_rows, bytes of a row].

    `dtype` is that of the ops. `flag` [1] int32 becomes 1 where a scale or a minimum is not finite.
    """
    shape = _check_blocks(raw, block_type, in_size)
    form = block_type.form
    if form is None:
        raise ValueError(f"repack: {block_type.name} has no packed form")
    packed = _empty(device, shape, form=form, paired=paired, dtype=dtype)
    kernel = device.kernel("gguf", "repack", C_TYPES[dtype.name], block_type.number)
    outs = (packed.quants, packed.scales, flag)
    sizes = (*map(np.int32, shape), np.int32(paired))
    launch(kernel, _grid(packed), _QUANT_THREADS, raw, *outs, *sizes)
    return packed


def expand(
    device: Device,
    raw: Array,
    *,
    block_type: BlockType,
    in_size: int,
    out: Array,
    flag: Array,
) -> None:
    """What blocks of a GGUF file, uint8 [num_rows, bytes of a row], stand for, rounded to `out`'s.

    `flag` [1] int32 becomes 1 where a finite weight is too large for that dtype.
    """
    num_rows, _ = _check_blocks(raw, block_type, in_size)
    check_array("expand: out", out, shape=(num_rows, in_size), dtype=out.dtype)
    kernel = device.kernel("gguf", "expand", C_TYPES[out.dtype.name], block_type.number)
    grid = (ceil_div(num_rows * (in_size // 8), _QUANT_THREADS),)
    sizes = (np.int32(num_rows), np.int32(in_size))
    launch(kernel, grid, _QUANT_THREADS, raw, out, flag, *sizes)


def _check_blocks(raw: Array, block_type: BlockType, in_size: int) -> tuple[int, int]:
    shape = (raw.shape[0], in_size)
    check(in_size % block_type.block_size == 0, "{} blocks in rows of {}", block_type.name, in_size)
    row_bytes = block_type.num_bytes((in_size,))
    check_array("blocks", raw, shape=(shape[0], row_bytes), dtype=np.dtype(np.uint8))
    return shape


def _empty(
    device: Device, shape: tuple[int, int], *, form: Form, paired: bool, dtype: np.dtype[Any]
) -> QuantizedMatrix:
    num_rows, in_size = shape
    check(not paired or num_rows % 2 == 0, "quantize: gate and up differ in {}", shape)
    num_tiles, num_blocks = ceil_div(num_rows, _TILE_ROWS), _num_blocks(form, in_size)
    check(num_tiles <= _MAX_TILES, "quantize: {} rows are too many", num_rows)
    num_scales = (num_tiles, num_blocks, _scales_of_block(form))
    return QuantizedMatrix(
        form,
        (num_rows, in_size),
        paired,
        device.empty((num_tiles, num_blocks, _block_bytes(form)), np.dtype(np.uint8)),
        device.empty(num_scales if form.group else (num_tiles, _TILE_ROWS), scale_dtype(dtype)),
    )


def dequantize(device: Device, matrix: PackedMatrix, *, dtype: np.dtype[Any]) -> Array:
    """The matrix that it stands for; `dtype` is that of the ops."""
    out = device.empty(matrix.shape, dtype)
    first = 0
    for part in matrix.parts:
        rows = out[first : first + part.shape[0]]
        first += part.shape[0]
        kernel = device.kernel("quantize", "dequantize", C_TYPES[dtype.name], *_template(part.form))
        sizes = (*map(np.int32, part.shape), np.int32(part.paired))
        launch(kernel, _grid(part), _QUANT_THREADS, part.quants, part.scales, rows, *sizes)
    return out


def multiplies(device: Device, x: Array) -> bool:
    """Whether `matvec_quantized` takes these rows; else the matrix is expanded."""
    return multiplies_packed(device, x.dtype) and 0 < len(x) <= MAX_QUANTIZED_ROWS


def multiplies_packed(device: Device, dtype: np.dtype[Any]) -> bool:
    """Whether it takes any rows of this dtype."""
    return device.arch >= MIN_ARCH and dtype.itemsize == 2


def split_log2(form: Form, shape: tuple[int, int]) -> int:
    """How many warps share a tile, as a power of two. It depends on the weight alone."""
    tiles, blocks = ceil_div(shape[0], _TILE_ROWS), _num_blocks(form, shape[1])
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
    """`cuda_matvec.matvec` of a quantized weight and 1 to MAX_QUANTIZED_ROWS rows of x.

    With a norm at most 8 rows. ValueError for arrays that do not fit.
    """
    if residual is not None:
        epilogue = Epilogue.ADD
    (num_rows, in_size), (weight_rows, _) = x.shape, weight.shape
    check_array("linear: x", x, shape=(num_rows, weight.shape[1]), dtype=x.dtype)
    check(multiplies(device, x), "linear: {} {} and a quantized weight", x.shape, x.dtype)
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
        _launch_product(device, x, part, own_bias, norm, epilogue, out[:, first:end])
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
    """`out` are columns of an array that may have others too."""
    (num_rows, in_size), out_size = x.shape, out.shape[1]
    split = split_log2(weight.form, weight.shape)
    row_tiles = next(n for n in _ROW_TILES if 8 * n >= num_rows)
    args = (*_template(weight.form), row_tiles, int(norm is not None))
    kernel = device.kernel("matvec_quantized", "matvec_quantized", C_TYPES[x.dtype.name], *args)
    outs = (None, out) if epilogue is Epilogue.FLOAT32 else (out, None)
    arrays = (x, norm.weight if norm else None, weight.quants, weight.scales, bias, *outs)
    out_stride = out.strides[0] // out.itemsize
    sizes = tuple(map(np.int32, (num_rows, in_size, out_size, out_stride)))
    ends = (np.float32(norm.eps if norm else 0), np.int32(split), np.int32(epilogue))
    shared_bytes = 0 if norm is None else (num_rows + 1) * in_size * x.itemsize
    grid = (ceil_div(weight.num_tiles << split, _WARPS),)
    launch(kernel, grid, 32 * _WARPS, *arrays, *sizes, *ends, shared_bytes=shared_bytes)


def packed_bytes(form: Form, shape: tuple[int, int]) -> int:
    """Bytes of a matrix once it is packed."""
    tiles, blocks = ceil_div(shape[0], _TILE_ROWS), _num_blocks(form, shape[1])
    num_scales = blocks * _scales_of_block(form) if form.group else _TILE_ROWS
    return tiles * (blocks * _block_bytes(form) + 2 * num_scales)


def _template(form: Form) -> tuple[int, int]:
    return form.bits, form.group


def _num_blocks(form: Form, in_size: int) -> int:
    return ceil_div(in_size, _COLUMNS[form.bits])


def _block_bytes(form: Form) -> int:
    return 2 * form.bits * _COLUMNS[form.bits]


def _scales_of_block(form: Form) -> int:
    return 16 if form.bits == 8 else 64


def _grid(matrix: QuantizedMatrix) -> tuple[int, int]:
    return ceil_div(matrix.num_blocks, _QUANT_THREADS // 32), matrix.num_tiles
