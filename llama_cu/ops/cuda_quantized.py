"""Quantized matrices on a device, made and expanded by kernels/quantize.cu and gguf.cu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.gguf_quants import BlockType
from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device
from llama_cu.quantized import Form, Scheme, can_quantize, scale_dtype

Array = Any

# As in packed.cuh.
TILE_ROWS = 16
_COLUMNS = {4: 64, 6: 64, 8: 32}
_QUANT_THREADS = 128
_MAX_TILES = 65535


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
        grid = (packed.num_tiles * TILE_ROWS,)
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
    num_tiles, num_blocks = ceil_div(num_rows, TILE_ROWS), blocks_of_columns(form, in_size)
    check(num_tiles <= _MAX_TILES, "quantize: {} rows are too many", num_rows)
    num_scales = (num_tiles, num_blocks, _scales_of_block(form))
    return QuantizedMatrix(
        form,
        (num_rows, in_size),
        paired,
        device.empty((num_tiles, num_blocks, _block_bytes(form)), np.dtype(np.uint8)),
        device.empty(num_scales if form.group else (num_tiles, TILE_ROWS), scale_dtype(dtype)),
    )


def dequantize(device: Device, matrix: PackedMatrix, *, dtype: np.dtype[Any]) -> Array:
    """The matrix that it stands for; `dtype` is that of the ops."""
    out = device.empty(matrix.shape, dtype)
    first = 0
    for part in matrix.parts:
        rows = out[first : first + part.shape[0]]
        first += part.shape[0]
        kernel = device.kernel(
            "quantize", "dequantize", C_TYPES[dtype.name], *template_of(part.form)
        )
        sizes = (*map(np.int32, part.shape), np.int32(part.paired))
        launch(kernel, _grid(part), _QUANT_THREADS, part.quants, part.scales, rows, *sizes)
    return out


def packed_bytes(form: Form, shape: tuple[int, int]) -> int:
    """Bytes of a matrix once it is packed."""
    tiles, blocks = ceil_div(shape[0], TILE_ROWS), blocks_of_columns(form, shape[1])
    num_scales = blocks * _scales_of_block(form) if form.group else TILE_ROWS
    return tiles * (blocks * _block_bytes(form) + 2 * num_scales)


def template_of(form: Form) -> tuple[int, int]:
    """What the kernels of packed matrices are specialised for."""
    return form.bits, form.group


def blocks_of_columns(form: Form, in_size: int) -> int:
    """Blocks that a tile has along a row."""
    return ceil_div(in_size, _COLUMNS[form.bits])


def _block_bytes(form: Form) -> int:
    return 2 * form.bits * _COLUMNS[form.bits]


def _scales_of_block(form: Form) -> int:
    return 16 if form.bits == 8 else 64


def _grid(matrix: QuantizedMatrix) -> tuple[int, int]:
    return ceil_div(matrix.num_blocks, _QUANT_THREADS // 32), matrix.num_tiles
