"""Launches of matvec.cu: products with few rows of activations, and what may be fused with them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device

Array = Any

# Beyond, a weight that is read once serves so many rows that tensor cores are needed.
MAX_MATVEC_ROWS = 8

# As in matvec.cu: a tile's rows of the weight, a block's warps, and the blocks of that many warps
# that the registers of a multiprocessor hold.
_TILE_ROWS = 2
_MAX_WARPS = 8
_BLOCKS_PER_MULTIPROCESSOR = {1: 3, 4: 2, 8: 2}

# Below this many rows of the weight more warps than one share each: about what it takes to have
# 16 KB on their way to each of 132 multiprocessors. It is a constant, not the device's, because
# the split decides the order of the sums.
_FILLING_ROWS = 4096
# A split leaves each lane at least so many vectors of a row.
_MIN_VECTORS = 2


class Epilogue(IntEnum):
    """What becomes of a product; as in matvec.cu."""

    STORE = 0
    ADD = 1
    SWIGLU = 2
    FLOAT32 = 3


@dataclass(frozen=True)
class Norm:
    """The RMSNorm that x goes through first."""

    weight: Array  # [in_size]
    eps: float


def split_log2(num_vectors: int, weight_rows: int) -> int:
    """How many warps share a row of the weight, as a power of two; at most 8 do.

    It depends on the weight's shape and type alone, and with it the order of each sum.
    """
    split = 0
    while (
        2 << split <= _MAX_WARPS
        and weight_rows << split < _FILLING_ROWS
        and num_vectors >= 32 * _MIN_VECTORS << (split + 1)
    ):
        split += 1
    return split


def staged_bytes(x: Array) -> int:
    """The shared memory that rows of x take, when they are normed on the way."""
    return int((x.shape[0] + 1) * x.shape[1] * x.itemsize)


def can_norm(device: Device, x: Array) -> bool:
    """Whether a norm may be fused: two blocks must find room on a multiprocessor.

    In whole vectors only: there rms_norm.cu has the same order of sums, and a row that is normed
    by the one kernel today and by the other tomorrow gets the same bits.
    """
    whole = x.shape[1] * x.itemsize % 16 == 0
    few = len(x) <= MAX_MATVEC_ROWS
    return whole and few and 2 * staged_bytes(x) <= device.max_shared_bytes


def matvec(
    device: Device,
    x: Array,
    *,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    norm: Norm | None = None,
    epilogue: Epilogue = Epilogue.STORE,
    early: bool = True,
) -> Array:
    """x weightᵀ of 1 to MAX_MATVEC_ROWS rows, after the epilogue: [num_rows, out_size].

    x [num_rows, in_size] and weight [weight_rows, in_size] have one dtype. out_size is
    weight_rows, or half of it for SWIGLU. A residual means ADD, and is returned; FLOAT32 takes no
    bias. The kernel asks for its weight before it waits for the kernel ahead: a weight which that
    one writes must not be read `early`. ValueError for arrays that do not fit.
    """
    if residual is not None:
        epilogue = Epilogue.ADD
    _check_operands(x, weight, bias=bias, norm=norm, epilogue=epilogue)
    halves = 2 if epilogue is Epilogue.SWIGLU else 1
    shape = (x.shape[0], weight.shape[0] // halves)
    check(shape[0] * shape[1] < 2**31, "linear: {} products are too many", shape)
    dtype = np.dtype(np.float32) if epilogue is Epilogue.FLOAT32 else x.dtype
    out = device.empty(shape, dtype) if residual is None else residual
    check_array("linear: residual", out, shape=shape, dtype=dtype)
    options: dict[str, Any] = {"bias": bias, "norm": norm, "epilogue": epilogue, "early": early}
    _launch(device, x, weight=weight, out=out, **options)
    return out


def _launch(
    device: Device,
    x: Array,
    *,
    weight: Array,
    bias: Array | None,
    norm: Norm | None,
    epilogue: Epilogue,
    out: Array,
    early: bool,
) -> None:
    (num_rows, in_size), out_size = x.shape, out.shape[1]
    whole = in_size * x.itemsize % 16 == 0
    split = split_log2(in_size * x.itemsize // 16 if whole else in_size, weight.shape[0])
    # Of these the kernels are made; for rows that are not whole vectors, which no model of the
    # family has, of the last alone.
    rows = next(r for r in _BLOCKS_PER_MULTIPROCESSOR if r >= (num_rows if whole else 8))
    tiles = out_size if epilogue is Epilogue.SWIGLU else ceil_div(out_size, _TILE_ROWS)
    shared_bytes = 0 if norm is None else staged_bytes(x)
    grid, block = _extents(device, tiles << split, 1 << split, rows, shared_bytes)
    c_type, normed = C_TYPES[x.dtype.name], int(norm is not None)
    kernel = device.kernel("matvec", "matvec", c_type, int(whole), rows, normed)
    arrays = (x, norm.weight if norm else None, weight, bias)
    outs = (None, out) if epilogue is Epilogue.FLOAT32 else (out, None)
    sizes = (np.int32(num_rows), np.int32(in_size), np.int32(out_size))
    eps = np.float32(norm.eps if norm else 0)
    args = (*arrays, *outs, *sizes, eps, np.int32(32 << split), np.int32(epilogue))
    launch(kernel, (grid,), block, *args, shared_bytes=shared_bytes, early=early)


def _check_operands(
    x: Array, weight: Array, *, bias: Array | None, norm: Norm | None, epilogue: Epilogue
) -> None:
    num_rows, in_size = x.shape
    weight_rows = weight.shape[0]
    fits = 1 <= num_rows <= MAX_MATVEC_ROWS
    check(fits, "linear: x must have 1 to {} rows, got {}", MAX_MATVEC_ROWS, num_rows)
    check_array("linear: x", x, shape=(num_rows, in_size), dtype=x.dtype)
    check_array("linear: weight", weight, shape=(weight_rows, in_size), dtype=x.dtype)
    check(weight.size < 2**32, "linear: weight {} has too many elements", weight.shape)
    paired = epilogue is not Epilogue.SWIGLU or weight_rows % 2 == 0
    check(paired, "norm_swiglu: weight must be gate and up, got {}", weight.shape)
    if bias is not None:
        check(epilogue is not Epilogue.FLOAT32, "logits take no bias, got {}", bias.shape)
        check_array("linear: bias", bias, shape=(weight_rows,), dtype=x.dtype)
    if norm is not None:
        whole = x.shape[1] * x.itemsize % 16 == 0
        check(whole, "linear: x {} {} cannot be normed on the way", x.shape, x.dtype)
        check_array("rms_norm: weight", norm.weight, shape=(in_size,), dtype=x.dtype)


def _extents(
    device: Device, num_warps: int, least_warps: int, rows: int, shared_bytes: int
) -> tuple[int, int]:
    """Grid and block: as many blocks as the device holds at once, of fewer warps if few suffice."""
    warps = _MAX_WARPS
    while warps > least_warps and ceil_div(num_warps, warps) < device.num_multiprocessors:
        warps //= 2
    held = _BLOCKS_PER_MULTIPROCESSOR[rows] * (_MAX_WARPS // warps)
    if shared_bytes:
        held = min(held, device.max_shared_bytes // shared_bytes)
    return min(ceil_div(num_warps, warps), held * device.num_multiprocessors), 32 * warps
