"""What every launcher needs: argument checks, and the vector size that fits a shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.ops.device import Kernel

Array = Any

# Blocks along the second and the third axis of a grid; along the first nothing of ours comes near.
MAX_GRID_YZ = 65535


def check(condition: bool, message: str, *values: object) -> None:
    """ValueError with the formatted message unless the condition holds."""
    if not condition:
        raise ValueError(message.format(*values))


def check_array(
    name: str, array: Array, *, shape: tuple[int, ...], dtype: np.dtype[Any] | type
) -> None:
    """ValueError unless the array is C-contiguous with this shape and dtype."""
    found = array.shape, array.dtype
    fits = found == (shape, dtype)
    check(fits, "{} must be {} {}, got {} {}", name, shape, np.dtype(dtype), *found)
    contiguous = array.flags.c_contiguous
    check(contiguous, "{} must be contiguous, got {} strides {}", name, shape, array.strides)


def token_stride(name: str, x: Array, *, dtype: np.dtype[Any]) -> int:
    """Elements from token to token of a view [num_tokens, num_heads, head_dim] of qkv.

    ValueError unless the dtype fits and each token's heads are contiguous.
    """
    check(x.ndim == 3, "{} must have 3 axes, got shape {}", name, x.shape)
    check(x.dtype == dtype, "{} must be {}, got {}", name, dtype, x.dtype)
    head_dim, itemsize = x.shape[2], x.itemsize
    inner = x.strides[1:] == (head_dim * itemsize, itemsize)
    whole = x.strides[0] % itemsize == 0 and x.strides[0] >= 0
    empty = x.size == 0  # all strides of an empty array are zero in CuPy
    message = "{}: heads must be contiguous, got {} strides {}"
    check(empty or (inner and whole), message, name, x.shape, x.strides)
    return int(x.strides[0] // itemsize)


def vector_lanes(dtype: np.dtype[Any], *sizes: int) -> int:
    """The most elements, up to 16 bytes, that divide all sizes: LANES of a kernel.

    Arrays start at multiples of 16 bytes, and views of them at multiples of these sizes.
    """
    lanes = 16 // dtype.itemsize
    while any(size % lanes for size in sizes):
        lanes //= 2
    return lanes


def launch(
    kernel: Kernel,
    grid: tuple[int, ...],
    block: int,
    *args: Any,
    shared_bytes: int = 0,
    early: bool = True,
) -> None:
    """Queue the kernel on blocks of `block` threads; an empty grid has nothing to do.

    CUDA refuses an empty grid, and CuPy would make one block of it. `early` as in `Kernel`.
    """
    if all(grid):
        kernel(grid, (block,), args, shared_bytes, early=early)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def whole_warps(count: int, *, low: int = 32, high: int = 1024) -> int:
    """count threads, rounded up to whole warps, within [low, high]."""
    return min(max(ceil_div(count, 32) * 32, low), high)
