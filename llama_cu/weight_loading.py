"""How weights come from files to a device: what the checkpoint room gives, what a device takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = Any


@dataclass(frozen=True)
class WeightPiece:
    """A stretch of a weight, as a file holds it."""

    name: str  # of the tensor
    dtype: np.dtype[Any]  # float32, float16 or bfloat16
    first: int  # where it begins in the weight, in elements
    size: int  # elements
    read_into: Callable[[np.ndarray, int], None]
    """read_into(out, start) fills `out` with the piece's bytes from `start` on, in any thread."""

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize


class WeightLoader(Protocol):
    """Takes weights from files to where they stay, rounded to the dtype of the ops."""

    piece_bytes: int  # no piece may have more

    def __enter__(self) -> WeightLoader: ...

    def __exit__(self, *reason: object) -> None: ...

    def load(self, shape: tuple[int, ...], pieces: Iterable[WeightPiece]) -> Array:
        """A new array of this shape, filled from the pieces; what they raise comes through."""

    def overflows(self) -> list[str]:
        """Tensors of which a finite value was too large for the dtype; waits for all loads."""
