"""One GGUF file: its metadata and its table of tensors, every count checked against its size."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.gguf_cursor import MOST_HEADER_BYTES, Cursor, Strings
from llama_cu.errors import ModelError
from llama_cu.gguf_quants import BLOCK_TYPES, BY_NUMBER, OTHER_TYPES, BlockType

Array = Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_MOST_DIMENSIONS = 4
_MOST_ALIGNMENT = 1 << 16
# A longer array is not shown in an error.
_SHOWN_ELEMENTS = 16


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies; its shape is [rows, ...] as everywhere else, its offset the file's."""

    block_type: BlockType
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class GgufFile:
    """A GGUF file of version 2 or 3 whose header has been checked.

    `metadata` has Python's numbers, flags and texts, `Strings`, and NumPy arrays of numbers. A
    float32 is the shortest decimal that means it, which is what its author wrote. ModelError names
    the file, the key or tensor, what was expected and what was found.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            with self.path.open("rb") as file:
                file_bytes = self.path.stat().st_size
                start = file.read(24)
                self.version = _check_start(self.path, start)
                length = min(file_bytes, MOST_HEADER_BYTES)
                with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as pages:
                    self._read_header(Cursor(self.path, pages, file_bytes))
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def fields(self) -> Fields:
        """The metadata for typed reading by key; long arrays are left out."""
        values = {}
        for key, value in self.metadata.items():
            if isinstance(value, np.ndarray):
                value = value[:_SHOWN_ELEMENTS].tolist()
            elif isinstance(value, Strings):
                value = f"an array of {len(value)} strings"
            values[key] = value
        return Fields(str(self.path), values)

    def strings(self, key: str) -> Strings | None:
        """An array of strings, None where it is absent."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, Strings):
            return value
        raise ModelError(f"{self.path}: {key} must be an array of strings")

    def numbers(self, key: str) -> Array | None:
        """An array of numbers, None where it is absent."""
        value = self.metadata.get(key)
        if value is None or isinstance(value, np.ndarray):
            return value
        raise ModelError(f"{self.path}: {key} must be an array of numbers")

    def read(self, name: str, out: Array, start: int) -> None:
        """Fill contiguous `out` with the bytes of a tensor from byte `start` on, in any thread."""
        at = self.tensors[name].offset + start
        left = memoryview(out).cast("B")
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(at)
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

    def _read_header(self, cursor: Cursor) -> None:
        cursor.skip(8)
        num_tensors = cursor.count("tensors", entry_bytes=24)
        num_values = cursor.count("metadata entries", entry_bytes=13)
        for _ in range(num_values):
            key = cursor.text("a metadata key")
            if key in self.metadata:
                raise ModelError(f"{self.path}: {key}: expected once, found twice")
            self.metadata[key] = cursor.value(key)
        found = [self._read_tensor(cursor) for _ in range(num_tensors)]
        alignment = self.fields().integer("general.alignment", 32)
        if alignment & (alignment - 1) or alignment > _MOST_ALIGNMENT:
            rule = f"must be a power of two up to {_MOST_ALIGNMENT}"
            raise self.fields().refuse("general.alignment", rule)
        data_start = -(-cursor.at // alignment) * alignment
        self._place(found, data_start, alignment, cursor.file_bytes)

    def _read_tensor(self, cursor: Cursor) -> tuple[str, BlockType, tuple[int, ...], int]:
        name = cursor.text("a tensor's name")
        what = f"tensor {name}"
        num_dimensions = cursor.integer("<I", what)
        if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
            raise cursor.refuse(f"{what}: expected 1 to 4 dimensions, found {num_dimensions}")
        sizes = [cursor.integer("<Q", what) for _ in range(num_dimensions)]
        number, offset = cursor.integer("<I", what), cursor.integer("<Q", what)
        block_type = BY_NUMBER.get(number)
        if block_type is None:
            known = ", ".join(each.name for each in BLOCK_TYPES)
            found = OTHER_TYPES.get(number, f"number {number}")
            raise cursor.refuse(f"{what}: expected type {known}, found {found}")
        if sizes[0] % block_type.block_size or not all(sizes):
            rule = f"rows of a multiple of {block_type.block_size} for {block_type.name}"
            raise cursor.refuse(f"{what}: expected {rule}, found {sizes[::-1]}")
        return name, block_type, tuple(sizes[::-1]), offset

    def _place(
        self,
        found: list[tuple[str, BlockType, tuple[int, ...], int]],
        data_start: int,
        alignment: int,
        file_bytes: int,
    ) -> None:
        """Fill `tensors`: each aligned, inside the file, and sharing no byte with another."""
        end, before = data_start, "the header"
        for name, block_type, shape, offset in sorted(found, key=lambda tensor: tensor[3]):
            start, num_bytes = data_start + offset, block_type.num_bytes(shape)
            if name in self.tensors:
                raise ModelError(f"{self.path}: tensor {name}: expected once, found twice")
            if offset % alignment:
                rule = f"expected an offset that is a multiple of {alignment}"
                raise ModelError(f"{self.path}: tensor {name}: {rule}, found {offset}")
            if start + num_bytes > file_bytes:
                raise ModelError(
                    f"{self.path}: tensor {name}: truncated: expected bytes up to "
                    f"{start + num_bytes}, found a file of {file_bytes}"
                )
            if start < end:
                rule = f"expected its data behind that of {before}"
                raise ModelError(f"{self.path}: tensor {name}: {rule}, found offset {offset}")
            end, before = start + num_bytes, name
            self.tensors[name] = GgufTensor(block_type, shape, start, num_bytes)


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a file which begins as GGUF does, or is named as one."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _check_start(path: Path, start: bytes) -> int:
    """The version that the first bytes tell."""
    if start[:4] != MAGIC:
        raise ModelError(f"{path}: expected a GGUF file, found one that begins with {start[:4]!r}")
    if len(start) < 24:
        raise ModelError(f"{path}: truncated: expected a header, found a file of {len(start)}")
    version = int.from_bytes(start[4:8], "little")
    if version in VERSIONS:
        return version
    if int.from_bytes(start[4:8], "big") in VERSIONS:
        raise ModelError(f"{path}: expected little-endian numbers, found a big-endian GGUF file")
    raise ModelError(f"{path}: expected GGUF version 2 or 3, found {version}")
