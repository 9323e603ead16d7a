"""Weights in 8 or 4 bits: what the numbers are, on the host. `kernels/packed.cuh` is how they lie.

A quantized matrix is worth the float32 values of `dequantize`, on every backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

GROUP_SIZE = 32
_HALF_MAX = np.float32(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Scheme:
    """How the matrices of the layers are held; embeddings, LM head, norms and biases stay."""

    name: str
    bits: int
    bits_per_weight: float  # with scales, of long rows


INT8 = Scheme("int8", 8, 8.0)
INT4 = Scheme("int4", 4, 5.0)
SCHEMES = {scheme.name: scheme for scheme in (INT8, INT4)}


@dataclass(frozen=True)
class Quants:
    """A matrix [num_rows, in_size] as numbers of a scheme and what they are to be scaled by.

    int8: values -127 to 127 (int8), scales float16 [num_rows, 1], no minima.
    int4: values 0 to 15 (uint8), scales and minima float16 [num_rows, in_size / 32].
    """

    scheme: Scheme
    values: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None


def can_quantize(shape: tuple[int, ...]) -> bool:
    """Whether rows are whole groups; a matrix of other rows stays as it is."""
    return len(shape) == 2 and shape[1] % GROUP_SIZE == 0 and min(shape) > 0


def quantize(weight: Array, scheme: Scheme) -> Quants:
    """The nearest numbers of a scheme to a float32 matrix.

    int8 is symmetric, its greatest magnitude in a row becomes 127. int4 goes from the minimum of 32
    neighbours to their maximum (GGUF's Q4_1). Scales are rounded to float16 before the numbers are
    chosen. ValueError for a value that is not finite, or whose scale no float16 holds.
    """
    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    if scheme.bits == 8:
        return _quantize8(weight)
    return _quantize4(weight)


def dequantize(quants: Quants) -> np.ndarray:
    """float32 [num_rows, in_size]: value * scale + minimum."""
    num_rows, in_size = quants.values.shape
    groups = quants.scales.shape[1]
    values = quants.values.reshape(num_rows, groups, -1).astype(np.float32)
    values *= quants.scales.astype(np.float32)[:, :, None]
    if quants.minima is not None:
        values += quants.minima.astype(np.float32)[:, :, None]
    return values.reshape(num_rows, in_size)


def rounded(weight: Array, scheme: Scheme) -> np.ndarray:
    """What is left of a float32 matrix when it is quantized: float32 of the same shape."""
    return dequantize(quantize(weight, scheme))


def _quantize8(weight: np.ndarray) -> Quants:
    scales = _halves(np.abs(weight).max(axis=1, keepdims=True) / np.float32(127))
    values = np.clip(np.rint(_divided(weight, scales)), -127, 127).astype(np.int8)
    return Quants(INT8, values, scales, None)


def _quantize4(weight: np.ndarray) -> Quants:
    groups = weight.reshape(len(weight), -1, GROUP_SIZE)
    low, high = groups.min(axis=2), groups.max(axis=2)
    _check_halves(high)
    scales, minima = _halves((high - low) / np.float32(15)), _halves(low)
    above = groups - minima.astype(np.float32)[:, :, None]
    values = np.clip(np.rint(_divided(above, scales[:, :, None])), 0, 15).astype(np.uint8)
    return Quants(INT4, values.reshape(weight.shape), scales, minima)


def _divided(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """0 where the scale is."""
    divisors = scales.astype(np.float32)
    quotients = np.zeros_like(numbers)
    np.divide(numbers, divisors, out=quotients, where=divisors != 0)
    return quotients


def _check_halves(numbers: np.ndarray) -> None:
    if (np.abs(numbers) > _HALF_MAX).any():
        raise ValueError("a weight is too large for a float16 scale")


def _halves(numbers: np.ndarray) -> np.ndarray:
    _check_halves(numbers)
    halves: np.ndarray = numbers.astype(np.float16)
    return halves
