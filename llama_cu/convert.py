"""float32, float16 and bfloat16 into each other, faster than NumPy's and ml_dtypes' casts.

A weight is rounded at most once, to nearest even; a block with an infinity, a NaN or an overflow in
it goes by NumPy's own cast.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = Any

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Elements converted at once, so that the temporaries stay in a core's cache.
_BLOCK_SIZE = 1 << 16
# The bits of infinity, from which on a pattern without its sign is no finite number.
_INFINITY = {FLOAT32: 0x7F800000, FLOAT16: 0x7C00, BFLOAT16: 0x7F80}
# The bits of the first float32 that bfloat16 rounds to infinity.
_BFLOAT16_OVERFLOW = 0x7F7F8000


def convert(source: Array, out: Array, *, dtype: np.dtype[Any]) -> float | None:
    """Round flat `source` to `dtype` and store it in flat `out`, whose dtype is that or float32.

    Returns the first finite value that became infinite, or None.
    """
    for start in range(0, source.size, _BLOCK_SIZE):
        block = source[start : start + _BLOCK_SIZE]
        target = out[start : start + _BLOCK_SIZE]
        if dtype in (block.dtype, FLOAT32):
            _widen(block, target)
            continue
        wide = np.empty(block.shape, FLOAT32)
        _widen(block, wide)
        rounded = _round(wide, dtype)
        if not _all_below(rounded, _INFINITY[dtype]):
            lost = np.isinf(rounded) & np.isfinite(wide)
            if lost.any():
                return float(wide[lost][0])
        _widen(rounded, target)
    return None


def _widen(block: Array, target: Array) -> None:
    """target = block, without rounding: target has the block's dtype or is float32."""
    if block.dtype == target.dtype:
        np.copyto(target, block)
    elif block.dtype == BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        bits = block.view(np.uint16)
        np.left_shift(bits, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
    elif not _all_below(block, _INFINITY[FLOAT16]):
        np.copyto(target, block)
    else:
        # Sign, exponent and mantissa in their places; the product makes good the exponent's bias
        # of 15 instead of 127, and is exact for subnormals too.
        bits = target.view(np.int32)
        np.left_shift(block.view(np.int16), np.int32(13), out=bits, dtype=np.int32)
        np.bitwise_and(bits, np.int32(~0x70000000), out=bits)
        np.multiply(target, np.float32(2.0**112), out=target)


def _round(wide: Array, dtype: np.dtype[Any]) -> Array:
    if dtype == BFLOAT16 and _all_below(wide, _BFLOAT16_OVERFLOW):
        bits = wide.view(np.uint32)
        # Just under half of the last place kept, and a little more where that place is odd.
        half = np.right_shift(bits, np.uint32(16))
        np.bitwise_and(half, np.uint32(1), out=half)
        np.add(half, np.uint32(0x7FFF), out=half)
        np.add(half, bits, out=half)
        np.right_shift(half, np.uint32(16), out=half)
        return half.astype(np.uint16).view(BFLOAT16)
    with np.errstate(over="ignore", invalid="ignore"):
        return wide.astype(dtype)


def _all_below(array: Array, limit: int) -> bool:
    """Whether the bits of every element, but for its sign, are below `limit`."""
    sign = 1 << (8 * array.itemsize - 1)
    positive, negative = array.view(f"i{array.itemsize}"), array.view(f"u{array.itemsize}")
    return bool(positive.max() < limit and negative.max() < sign + limit)
