"""How weights come from files to a device: what the checkpoint room gives, what a device takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from llama_cu.gguf_quants import BlockType

Array = Any

_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class WeightPiece:
    """A stretch of a weight, as a file holds it."""

    name: str  # of the tensor
    dtype: np.dtype[Any]  # float32, float16, bfloat16, or uint8 of blocks
    first: int  # where it begins in the weight, in elements
    size: int  # elements
    read_into: Callable[[np.ndarray, int], None]
    """read_into(out, start) fills `out` with the piece's bytes from `start` on, in any thread."""

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class BlockRows:
    """A matrix [rows, in_size] of a weight in blocks, as a file holds it."""

    name: str  # of the tensor
    block_type: BlockType
    shape: tuple[int, int]
    read_into: Callable[[np.ndarray, int], None]
    """As of `WeightPiece`: rows one after the other, each of whole blocks."""

    @property
    def row_bytes(self) -> int:
        return self.block_type.num_bytes(self.shape[1:])

    def pieces(self, piece_bytes: int) -> Iterator[WeightPiece]:
        """The bytes of the blocks."""
        num_bytes = self.shape[0] * self.row_bytes
        for start in range(0, num_bytes, piece_bytes):
            size = min(piece_bytes, num_bytes - start)
            yield WeightPiece(self.name, _BYTE, start, size, partial(self._read_from, start))

    def _read_from(self, first: int, out: np.ndarray, start: int) -> None:
        self.read_into(out, first + start)


class WeightLoader(Protocol):
    """Takes weights from files to where they stay, rounded to the dtype of the ops."""

    piece_bytes: int  # no piece may have more

    def __enter__(self) -> WeightLoader: ...

    def __exit__(self, *reason: object) -> None: ...

    def load(self, shape: tuple[int, ...], pieces: Iterable[WeightPiece]) -> Array:
        """A new array of this shape, filled from the pieces; what they raise comes through."""

    def load_blocks(self, tensors: Sequence[BlockRows]) -> Array:
        """`load` of tensors in blocks, one after the other along the first axis."""

    def keep_blocks(self, tensors: Sequence[BlockRows], *, paired: bool) -> Array:
        """The same, held in as many bits, for products to take; `paired` as of `Ops.quantize`.

        It is worth `BlockType.rounded`. Tensors of a pair have the same type.
        """

    def overflows(self) -> list[str]:
        """Tensors of which a value or a scale was too large for the dtype; waits for all loads."""
