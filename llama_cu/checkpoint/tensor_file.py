"""One safetensors file: its header, and its tensors copied into arrays of another dtype.

The data is memory-mapped piece by piece and every piece is unmapped before the next, so that
mapped pages never add up to the size of the file.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from llama_cu.convert import BFLOAT16, FLOAT16, FLOAT32, convert
from llama_cu.errors import ModelError

Array = Any

FLOAT_DTYPES = {"F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
FLOAT_NAMES = {dtype: name for name, dtype in FLOAT_DTYPES.items()}
PIECE_BYTES = 16 << 20

# What a header that is JSON of another kind, or nested without end, can raise.
_HEADER_FAULTS = (
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in its file: `dtype` in the file's spelling, offset from the start."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class TensorFile:
    """A safetensors file whose header has been checked; ModelError where it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = _read_header(path)

    def read_into(self, name: str, out: np.ndarray, offset: int, *, start: int) -> None:
        """Fill `out` with the bytes of a tensor from byte start + offset on, in any thread.

        ModelError where the file has become shorter than its header says.
        """
        at = self.entries[name].offset + start + offset
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(at)
                left = memoryview(out.data).cast("B")
                while left:
                    count = file.readinto(left)
                    if not count:
                        raise ModelError(
                            f"{self.path}: tensor {name}: truncated while it was read: expected "
                            f"bytes up to {at + out.nbytes}, found {at + out.nbytes - len(left)}"
                        )
                    left = left[count:]
        except OSError as error:
            message = f"{self.path}: tensor {name}: cannot be read: {error.strerror or error}"
            raise ModelError(message) from error

    def copy(self, name: str, out: Array, *, dtype: np.dtype[Any]) -> None:
        """Write a tensor, rounded to `dtype`, into `out`: contiguous, of `dtype` or float32.

        ModelError where a finite value is too large for `dtype`.
        """
        flat = out.reshape(-1)
        for start, piece in self._pieces(name):
            too_large = convert(piece, flat[start : start + piece.size], dtype=dtype)
            if too_large is not None:
                raise ModelError(
                    f"{self.path}: tensor {name}: expected values that fit {dtype.name}, "
                    f"found {too_large:g}"
                )
            del piece  # unmapped before the next one is mapped

    def _pieces(self, name: str) -> Iterator[tuple[int, Array]]:
        """(first element, flat view of the mapped file), piece after piece."""
        entry = self.entries[name]
        dtype = FLOAT_DTYPES[entry.dtype]
        with self.path.open("rb") as file:
            for start in range(0, entry.num_bytes, PIECE_BYTES):
                length = min(PIECE_BYTES, entry.num_bytes - start)
                first = entry.offset + start
                lead = first % mmap.ALLOCATIONGRANULARITY
                pages = mmap.mmap(
                    file.fileno(), lead + length, access=mmap.ACCESS_READ, offset=first - lead
                )
                piece = np.frombuffer(pages, dtype, length // dtype.itemsize, lead)
                del pages  # from here on the view alone keeps them mapped
                yield start // dtype.itemsize, piece
                del piece


def _read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a file by name. The safetensors library judges the header's consistency."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or header_bytes > file_bytes - 8:
                raise ModelError(
                    f"{path}: damaged header: expected {8 + header_bytes} bytes at least, "
                    f"found a file of {file_bytes}"
                )
            header = json.loads(file.read(header_bytes))
        entries = {
            name: _entry(value, 8 + header_bytes)
            for name, value in header.items()
            if name != "__metadata__"
        }
        for name, entry in entries.items():
            if entry.offset + entry.num_bytes > file_bytes:
                raise ModelError(
                    f"{path}: tensor {name}: truncated: expected bytes up to "
                    f"{entry.offset + entry.num_bytes}, found a file of {file_bytes}"
                )
        with safe_open(path, "np") as checked:
            checked.keys()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _HEADER_FAULTS as error:
        raise ModelError(f"{path}: damaged header: {error}") from error
    return entries


def _entry(value: dict[str, Any], data_start: int) -> TensorEntry:
    begin, end = value["data_offsets"]
    return TensorEntry(str(value["dtype"]), tuple(value["shape"]), data_start + begin, end - begin)
