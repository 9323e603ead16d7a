"""Weights in 8 or 4 bits: what the numbers are, on the host. `kernels/packed.cuh` is how they lie.

A quantized matrix is worth the values of `dequantize`, on every backend and in every product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

GROUP_SIZE = 32
FLOAT16 = np.dtype(np.float16)
# Weights quantized at once on the host.
_PIECE_SIZE = 1 << 20


@dataclass(frozen=True)
class Form:
    """How a matrix is packed: bits of a number, and neighbours that share a scale (0: the row)."""

    bits: int
    group: int


@dataclass(frozen=True)
class Scheme:
    """How matrices are held; the embedding table, norms and biases stay as they are.

    Of the LM head a copy is held where it is the embedding table too.
    """

    name: str
    form: Form

    def of(self, field: str) -> Scheme:
        """That of a field of Weights or LayerWeights: the LM head always has 8 bits."""
        return INT8 if field == "lm_head" else self


INT8 = Scheme("int8", Form(8, 0))
INT4 = Scheme("int4", Form(4, GROUP_SIZE))
EXPANDED = "none"  # instead of a scheme: blocks of a GGUF file are expanded
SCHEMES = {scheme.name: scheme for scheme in (INT8, INT4)}


def find_scheme(name: str | None) -> Scheme | None:
    """The scheme of a name, None for None and EXPANDED; ValueError for one that is none."""
    if name is None or name == EXPANDED or name in SCHEMES:
        return SCHEMES.get(name or "")
    known = ", ".join((*SCHEMES, EXPANDED))
    raise ValueError(f"quantize must be one of {known} or None, got {name!r}")


@dataclass(frozen=True)
class Quants:
    """A matrix [num_rows, in_size] as numbers of a scheme and what they are to be scaled by.

    int8: values -127 to 127 (int8), scales [num_rows, 1], no minima.
    int4: values 0 to 15 (uint8), scales and minima [num_rows, in_size / 32].
    Scales and minima have the dtype of the ops where that has 16 bits, else float16.
    """

    scheme: Scheme
    values: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None


def can_quantize(shape: tuple[int, ...]) -> bool:
    """Whether rows are whole groups; a matrix of other rows stays as it is."""
    return len(shape) == 2 and shape[1] % GROUP_SIZE == 0 and min(shape) > 0


def scale_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """That of scales, for ops of a dtype."""
    return dtype if dtype.itemsize == 2 else FLOAT16


def quantize(weight: Array, scheme: Scheme, dtype: np.dtype[Any]) -> Quants:
    """The nearest numbers of a scheme to a matrix, for ops of a dtype.

    int8 is symmetric, its greatest magnitude in a row becomes 127. int4 goes from the minimum of 32
    neighbours to their maximum (GGUF's Q4_1). Scales are rounded before the numbers are chosen.
    ValueError for a weight that is not finite, or has no finite scale.
    """
    weight = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    make = _quantize8 if scheme.form.bits == 8 else _quantize4
    return make(weight, scale_dtype(dtype))


def dequantize(quants: Quants, dtype: np.dtype[Any]) -> np.ndarray:
    """float32 [num_rows, in_size]: value * scale + minimum, rounded to `dtype` once."""
    num_rows, in_size = quants.values.shape
    groups = quants.scales.shape[1]
    values = quants.values.reshape(num_rows, groups, -1).astype(np.float64)
    values *= quants.scales.astype(np.float64)[:, :, None]
    if quants.minima is not None:
        values += quants.minima.astype(np.float64)[:, :, None]
    return rounded_once(values.reshape(num_rows, in_size), dtype)


def rounded(weight: Array, scheme: Scheme, dtype: np.dtype[Any]) -> np.ndarray:
    """What is left of a matrix when it is quantized: float32 of the same shape."""
    weight = np.ascontiguousarray(weight)
    out = np.empty(weight.shape, np.float32)
    step = max(1, _PIECE_SIZE // weight.shape[1])
    for first in range(0, len(weight), step):
        rows = slice(first, first + step)
        out[rows] = dequantize(quantize(weight[rows], scheme, dtype), dtype)
    return out


def _quantize8(weight: np.ndarray, dtype: np.dtype[Any]) -> Quants:
    scales = finite_scales(np.abs(weight).max(axis=1, keepdims=True) / np.float32(127), dtype)
    values = np.clip(np.rint(_divided(weight, scales)), -127, 127).astype(np.int8)
    return Quants(INT8, values, scales, None)


def _quantize4(weight: np.ndarray, dtype: np.dtype[Any]) -> Quants:
    groups = weight.reshape(len(weight), -1, GROUP_SIZE)
    low, high = groups.min(axis=2), groups.max(axis=2)
    with np.errstate(over="ignore"):
        scales, minima = (
            finite_scales((high - low) / np.float32(15), dtype),
            finite_scales(low, dtype),
        )
    above = groups - minima.astype(np.float32)[:, :, None]
    values = np.clip(np.rint(_divided(above, scales[:, :, None])), 0, 15).astype(np.uint8)
    return Quants(INT4, values.reshape(weight.shape), scales, minima)


def _divided(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """0 where the scale is."""
    divisors = scales.astype(np.float32)
    quotients = np.zeros_like(numbers)
    np.divide(numbers, divisors, out=quotients, where=divisors != 0)
    return quotients


def finite_scales(numbers: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Scales or minima rounded to a dtype; ValueError where one is not finite."""
    with np.errstate(over="ignore"):
        scales: np.ndarray = numbers.astype(dtype)
    if not np.isfinite(scales.astype(np.float32)).all():
        raise ValueError(f"a weight has no finite {dtype} scale")
    return scales


def rounded_once(exact: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """float64 rounded to a dtype of 16 bits or to float32, as float32.

    By way of float32 with an odd last bit where it is inexact, from which either way is right:
    ml_dtypes would round to float32 first.
    """
    near = exact.astype(np.float32)
    if dtype == np.float32:
        return near
    bits = near.view(np.uint32)
    bits -= (np.abs(near) > np.abs(exact)).astype(np.uint32)
    bits |= (near != exact).astype(np.uint32)
    return near.astype(dtype).astype(np.float32)
