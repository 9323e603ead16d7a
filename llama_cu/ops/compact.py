"""Matrices held as small as their file has them, and expanded to float32 some rows at a time.

This is `low_memory` of the NumPy backend: a product costs the expansion too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.convert import FLOAT32, convert
from llama_cu.quantized import Scheme, quantize
from llama_cu.weight_loading import BlockRows, WeightPiece

Array = Any

# Elements expanded at once: few enough to be still in a cache when they are multiplied by.
_PIECE_SIZE = 1 << 18
_READ_BYTES = 32 << 20


@dataclass(frozen=True)
class CompactRows:
    """Rows of a matrix: arrays of as many rows each, and how these become float32."""

    raw: tuple[Array, ...]
    expand: Callable[..., Array]
    """Of the same rows of each array: float32 [num_rows, in_size]."""

    def __len__(self) -> int:
        return len(self.raw[0])

    def expanded(self, rows: slice | Array) -> Array:
        return self.expand(*(array[rows] for array in self.raw))


class CompactMatrix:
    """A matrix [out_size, in_size], made of parts one after the other along the first axis."""

    def __init__(self, parts: Sequence[CompactRows], in_size: int) -> None:
        self.shape = (sum(map(len, parts)), in_size)
        self.nbytes = sum(array.nbytes for part in parts for array in part.raw)
        self._parts = parts

    def pieces(self) -> Iterator[tuple[slice, Array]]:
        """Which rows, and these in float32, one after the other."""
        step = max(1, _PIECE_SIZE // max(1, self.shape[1]))
        first = 0
        for part in self._parts:
            for start in range(0, len(part), step):
                end = min(start + step, len(part))
                yield slice(first + start, first + end), part.expanded(slice(start, end))
            first += len(part)

    def take(self, rows: Array) -> Array:
        """Rows by their numbers, int32 [num_rows]: float32 [num_rows, in_size]."""
        out = np.empty((len(rows), self.shape[1]), FLOAT32)
        first = 0
        for part in self._parts:
            own = (rows >= first) & (rows < first + len(part))
            out[own] = part.expanded(rows[own] - first)
            first += len(part)
        return out


class CompactLoader:
    """`WeightLoader` that makes compact matrices; `place` takes what is float32 anyway."""

    piece_bytes = _READ_BYTES

    def __init__(self, place: Callable[[Array], Array]) -> None:
        self._place = place

    def __enter__(self) -> CompactLoader:
        return self

    def __exit__(self, *reason: object) -> None:
        pass  # nothing is under way

    def load(self, shape: tuple[int, ...], pieces: Iterable[WeightPiece]) -> Array:
        tensors = [_read(own) for own in _by_tensor(pieces)]
        is_matrix = len(shape) == 2
        if is_matrix and any(tensor.dtype != FLOAT32 for tensor in tensors):
            rows = [CompactRows((t.reshape(-1, shape[1]),), _widened) for t in tensors]
            return CompactMatrix(rows, shape[1])
        flat = np.concatenate([_widened(tensor) for tensor in tensors])
        return self._place(flat.reshape(shape))

    def load_blocks(self, tensors: Sequence[BlockRows]) -> Array:
        parts = []
        for tensor in tensors:
            raw = np.empty((tensor.shape[0], tensor.row_bytes), np.uint8)
            tensor.read_into(raw, 0)
            parts.append(CompactRows((raw,), tensor.block_type.dequantize))
        return CompactMatrix(parts, tensors[0].shape[1])

    def keep_blocks(self, tensors: Sequence[BlockRows], *, paired: bool) -> Array:
        return self.load_blocks(tensors)

    def overflows(self) -> list[str]:
        return []  # every number of a file is one of float32


def quantize_compactly(weight: Array | CompactMatrix, scheme: Scheme) -> CompactMatrix:
    """A matrix in the numbers of a scheme; it is worth `quantized.rounded` of it, in float32.

    Errors are those of `quantized.quantize`.
    """
    num_rows, in_size = weight.shape
    whole = [(slice(0, num_rows), weight)]
    pieces = weight.pieces() if isinstance(weight, CompactMatrix) else whole
    raw: list[Array] = []
    for rows, piece in pieces:
        quants = quantize(piece, scheme, FLOAT32)
        four_bits = scheme.form.bits == 4
        values = _packed(quants.values) if four_bits else quants.values
        arrays = [a for a in (values, quants.scales, quants.minima) if a is not None]
        if not raw:
            raw = [np.empty((num_rows, a.shape[1]), a.dtype) for a in arrays]
        for whole_array, own in zip(raw, arrays, strict=True):
            whole_array[rows] = own
    expand = _from_4_bits if scheme.form.bits == 4 else _from_8_bits
    return CompactMatrix([CompactRows(tuple(raw), expand)], in_size)


def _by_tensor(pieces: Iterable[WeightPiece]) -> Iterator[list[WeightPiece]]:
    own: list[WeightPiece] = []
    for piece in pieces:
        if own and own[0].name != piece.name:
            yield own
            own = []
        own.append(piece)
    if own:
        yield own


def _read(pieces: list[WeightPiece]) -> Array:
    """A tensor as its file has it, flat."""
    flat = np.empty(sum(piece.size for piece in pieces), pieces[0].dtype)
    first = 0
    for piece in pieces:
        piece.read_into(flat[first : first + piece.size].view(np.uint8), 0)
        first += piece.size
    return flat


def _widened(x: Array) -> Array:
    if x.dtype == FLOAT32:
        return x
    out = np.empty(x.shape, FLOAT32)
    convert(np.ascontiguousarray(x).reshape(-1), out.reshape(-1), dtype=FLOAT32)
    return out


def _packed(values: Array) -> Array:
    """Two numbers below 16 a byte: the first half of a row in the low bits."""
    half = values.shape[1] // 2
    return values[:, :half] | values[:, half:] << np.uint8(4)


def _from_8_bits(values: Array, scales: Array) -> Array:
    return values * scales.astype(FLOAT32)


# Products are exact, for a number and a scale have 15 bits together; a sum is rounded once.
def _from_4_bits(packed: Array, scales: Array, minima: Array) -> Array:
    numbers = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)
    groups = numbers.reshape(*scales.shape, -1) * scales.astype(FLOAT32)[..., None]
    groups += minima.astype(FLOAT32)[..., None]
    return groups.reshape(len(packed), -1)
