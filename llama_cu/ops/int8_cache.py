"""K or V in 8 bits: each head of each token is worth its scale times whole numbers up to 127.

kernels/cache.cuh computes by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

KV_DTYPES = ("auto", "int8")

_HIGHEST = np.float32(127)
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Int8Cache:
    """K or V of one layer, where a plain cache is one array of the shape of `values`."""

    values: Array  # int8 [num_blocks, block_size, num_kv_heads, head_dim]
    scales: Array  # float32 [num_blocks, num_kv_heads, block_size]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        num_blocks, block_size, num_kv_heads, head_dim = self.values.shape
        return num_blocks, block_size, num_kv_heads, head_dim


def check_kv_dtype(kv_dtype: str) -> None:
    """ValueError unless it is auto (the type of the activations) or int8."""
    if kv_dtype not in KV_DTYPES:
        raise ValueError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}, got {kv_dtype!r}")


def row_bytes(head_dim: int, kv_dtype: str, itemsize: int) -> int:
    """What K, or V, of one head of one token takes; `itemsize` is that of the activations."""
    return head_dim + _SCALE_BYTES if kv_dtype == "int8" else head_dim * itemsize


def scales_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Of the scales of a cache [num_blocks, block_size, num_kv_heads, head_dim]."""
    num_blocks, block_size, num_kv_heads, _ = shape
    return num_blocks, num_kv_heads, block_size


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 of the shape of x [..., head_dim] float32, and scales [...] float32.

    A row's scale is its largest magnitude / 127; one that rounds to zero makes a row of zeros.
    """
    scales = np.abs(x).max(axis=-1) / _HIGHEST
    divisors = np.where(scales == 0, np.float32(np.inf), scales)[..., None]
    numbers = np.rint(x / divisors)
    # A subnormal scale is a rough one; and what is no number gets one.
    return np.fmin(np.fmax(numbers, -_HIGHEST), _HIGHEST).astype(np.int8), scales
