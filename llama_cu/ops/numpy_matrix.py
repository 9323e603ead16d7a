"""Matrices of the NumPy backend: where they lie in memory, and products with them."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.ops.compact import CompactMatrix

Array = Any

# A BLAS matrix-matrix product packs the whole weight first; below this many rows one
# matrix-vector product per row is faster, and a row's result cannot depend on its neighbours.
_MAX_ROWS_BY_VECTOR = 4

# Up to this many rows, a product takes less time for a multiple of 8 rows than for fewer, although
# there is a copy to make before. SmolLM2's matrices on Zen 3, weights by columns: 6 rows 66 and
# 41 ms, 14 rows 78 and 53 ms, 23 rows as 24; from 65 on it makes no difference. OpenBLAS's kernels
# for AVX-512 are faster with the weight as the first factor too, with another copy behind: on
# Zen 5, 15 rows 51 and 32 ms, 31 rows 60 and 44 ms, 60 rows 75 and 69 ms. The kernels for AVX2 do
# not like that order, nor does a weight that lies by columns: on Zen 4, 32 rows 1.1 and 1.4 ms,
# 64 rows 1.5 and 2.6 ms.
_MAX_FILLED_ROWS = 64
_ROWS_STEP = 8

# A matrix-vector product streams a matrix along its contiguous axis, a few lines side by side.
# Lines up to this length are so short for some CPUs that memory keeps starting anew: the other,
# longer axis is made the contiguous one. Measured with OpenBLAS 0.3.31 for lines of 576, as they
# are and turned: on Zen 3, which has AVX2, 24 and 33 GB/s; on Zen 4, which has AVX-512, 20 and 28;
# on Zen 5, which has it too, 44 and 37, with OpenBLAS's kernels of either kind. Others are taken
# for Zen 3 or Zen 5. Nothing is timed at the start: the layout decides about a sum's last bits,
# and a seed must tell the same story every time.
_MAX_SHORT_LINE = 1024

# How to ask the OpenBLAS that NumPy's wheels bring which CPU's kernels it runs, and the answers.
_BLAS_FOLDER = Path(np.__file__).parents[1] / "numpy.libs"
_NAMES_OF_CORE = ("scipy_openblas_get_corename64_", "openblas_get_corename64_")
_AVX512_CORES = ("skylakex", "cooperlake", "sapphirerapids")

_CPU_INFO = Path("/proc/cpuinfo")

# Only large arrays get huge pages: smaller weights share chunks of 16 MiB, each weight on a
# cache line of its own.
_CHUNK_ELEMENTS = 4 << 20
_LINE_ELEMENTS = 16


class Shelf:
    """Places float32 weights where products read them fastest.

    `turns` says whether matrices of short rows lie by columns; None: where this CPU reads them
    faster so.
    """

    def __init__(self, *, turns: bool | None = None) -> None:
        self._chunk = np.empty(0, np.float32)
        self._turns = _cpu_likes_long_lines() if turns is None else turns

    def place(self, host: Array) -> Array:
        """`host` itself, or a copy of it."""
        is_turned = self._turns and _has_short_rows(host.shape)
        if host.size >= _CHUNK_ELEMENTS:
            return np.asfortranarray(host) if is_turned else host
        flat = self._take(host.size)
        placed = flat.reshape(host.shape, order="F" if is_turned else "C")
        placed[...] = host
        return placed

    def _take(self, size: int) -> Array:
        if self._chunk.size < size:
            chunk = np.empty(_CHUNK_ELEMENTS + _LINE_ELEMENTS, np.float32)
            self._chunk = chunk[-chunk.ctypes.data // chunk.itemsize % _LINE_ELEMENTS :]
        taken = self._chunk[:size]
        self._chunk = self._chunk[-(-size // _LINE_ELEMENTS) * _LINE_ELEMENTS :]
        return taken


def matmul(x: Array, weight: Array | CompactMatrix) -> Array:
    """x weightᵀ: [num_rows, out_size] from [num_rows, in_size] and [out_size, in_size]."""
    if isinstance(weight, CompactMatrix):
        out = np.empty((len(x), weight.shape[0]), np.float32)
        for rows, piece in weight.pieces():
            out[:, rows] = matmul(x, piece)
        return out
    num_rows = x.shape[0]
    if _MAX_ROWS_BY_VECTOR < num_rows <= _MAX_FILLED_ROWS:
        x = _filled_up(x)
        if weight.flags.c_contiguous and blas_uses_avx512():
            return np.ascontiguousarray(weight.dot(x.T)[:, :num_rows].T)
        return x.dot(weight.T)[:num_rows]
    if num_rows > _MAX_ROWS_BY_VECTOR or num_rows == 1:
        return x.dot(weight.T)
    out = np.empty((num_rows, weight.shape[0]), np.float32)
    for row in range(num_rows):
        np.dot(weight, x[row], out=out[row])
    return out


def _filled_up(x: Array) -> Array:
    """x with rows of zeros up to a multiple of `_ROWS_STEP`."""
    num_missing = -x.shape[0] % _ROWS_STEP
    if not num_missing:
        return x
    return np.concatenate((x, np.zeros((num_missing, x.shape[1]), np.float32)))


def take_rows(table: Array | CompactMatrix, rows: Array) -> Array:
    """table[rows]; rows int32 [num_rows]."""
    if isinstance(table, CompactMatrix):
        return table.take(rows)
    # take would first copy a whole table whose rows are not contiguous
    return table.take(rows, axis=0) if table.flags.c_contiguous else table[rows]


@cache
def blas_uses_avx512() -> bool:
    """Whether NumPy's products run on OpenBLAS's kernels for AVX-512; False where nothing tells."""
    for path in _BLAS_FOLDER.glob("*openblas*"):
        library = ctypes.CDLL(str(path))  # loaded already: this is a second handle
        for name in _NAMES_OF_CORE:
            if tell := getattr(library, name, None):
                tell.restype = ctypes.c_char_p
                return tell().decode().lower() in _AVX512_CORES
    return False


def _cpu_likes_long_lines() -> bool:
    return not _cpu_has_avx512() or _cpu_is_zen4(_CPU_INFO)


def _cpu_is_zen4(info: Path) -> bool:
    """Of a CPU with AVX-512, by Linux's description of it."""
    if not info.is_file():
        return False
    lines = (line.partition(":") for line in info.read_text().splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    return (facts.get("vendor_id"), facts.get("cpu family")) == ("AuthenticAMD", "25")


def _cpu_has_avx512() -> bool:
    found: list[str] = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    return any(name == "X86_V4" or name.startswith("AVX512") for name in found)


def _has_short_rows(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] <= min(_MAX_SHORT_LINE, shape[0] // 2)
