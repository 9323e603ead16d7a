"""One GGUF file: its metadata and its table of tensors, every count checked against its size."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.fields import Fields
from llama_cu.checkpoint.gguf_quants import BLOCK_TYPES, BY_NUMBER, OTHER_TYPES, BlockType
from llama_cu.errors import ModelError

Array = Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# No vocabulary comes near these; beyond them a header is damaged, however large its file is.
_MOST_HEADER_BYTES = 64 << 20
_MOST_ELEMENTS = 1 << 21
_MOST_ENTRIES = 1 << 16
_MOST_DIMENSIONS = 4
_MOST_ALIGNMENT = 1 << 16
# A longer array is not shown in an error.
_SHOWN_ELEMENTS = 16

_STRING, _ARRAY, _FLOAT32, _BOOL = 8, 9, 6, 7
_NUMBERS = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    _FLOAT32: np.dtype("<f4"),
    _BOOL: np.dtype(np.bool_),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies; its shape is [rows, ...] as everywhere else, its offset the file's."""

    block_type: BlockType
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class Strings:
    """An array of strings, which become Python's when they are asked for."""

    def __init__(self, source: str, data: bytes, ends: list[int]) -> None:
        self._source = source
        self._data = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def text(self, index: int) -> str:
        """One of them; bytes that are not UTF-8 become U+FFFD."""
        start = self._ends[index - 1] if index else 0
        return str(self._data[start + 8 : self._ends[index]], "utf-8", "replace")

    def texts(self) -> list[str]:
        """All of them. ModelError for one that is not UTF-8."""
        data, start, texts = self._data, 0, []
        try:
            for end in self._ends:
                texts.append(str(data[start + 8 : end], "utf-8"))
                start = end
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._source}: entry {len(texts)} is not UTF-8") from error
        return texts


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
                length = min(file_bytes, _MOST_HEADER_BYTES)
                with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ) as pages:
                    self._read_header(_Cursor(self.path, pages, file_bytes))
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

    def _read_header(self, cursor: _Cursor) -> None:
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

    def _read_tensor(self, cursor: _Cursor) -> tuple[str, BlockType, tuple[int, ...], int]:
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


class _Cursor:
    """Reads a header front to back; nothing is allocated before it is known to be there."""

    def __init__(self, path: Path, pages: mmap.mmap, file_bytes: int) -> None:
        self.path = path
        self.file_bytes = file_bytes
        self.at = 0
        self._pages = pages
        self._size = len(pages)

    def refuse(self, problem: str) -> ModelError:
        return ModelError(f"{self.path}: {problem}")

    def skip(self, num_bytes: int, what: str = "header") -> int:
        """Step over bytes that are there; where they begin."""
        start = self.at
        if num_bytes > self._size - start:
            limit = "a file" if self._size == self.file_bytes else "room for a header"
            raise self.refuse(
                f"{what}: truncated: expected bytes up to {start + num_bytes}, found {limit} of "
                f"{self._size}"
            )
        self.at = start + num_bytes
        return start

    def integer(self, code: str, what: str) -> int:
        start = self.skip(struct.calcsize(code), what)
        return int(struct.unpack_from(code, self._pages, start)[0])

    def count(self, what: str, *, entry_bytes: int) -> int:
        """A number of entries, each of which takes at least so many bytes of the file."""
        count = self.integer("<Q", what)
        most = min(_MOST_ENTRIES, (self._size - self.at) // entry_bytes)
        if count > most:
            raise self.refuse(f"expected at most {most} {what}, found {count}")
        return count

    def text(self, what: str) -> str:
        """A string that names something, so it must be UTF-8."""
        length = self.integer("<Q", what)
        start = self.skip(length, what)
        try:
            return str(self._pages[start : self.at], "utf-8")
        except UnicodeDecodeError as error:
            raise self.refuse(f"{what} is not UTF-8") from error

    def value(self, key: str) -> Any:
        kind = self.integer("<I", key)
        if kind == _STRING:
            length = self.integer("<Q", key)
            start = self.skip(length, key)
            return str(self._pages[start : self.at], "utf-8", "replace")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _NUMBERS:
            raise self.refuse(f"{key}: expected a value type from 0 to 12, found {kind}")
        number = self._numbers(key, kind, 1)[0]
        return float(str(number)) if kind == _FLOAT32 else number.item()

    def _array(self, key: str) -> Any:
        kind, count = self.integer("<I", key), self.integer("<Q", key)
        if kind != _STRING and kind not in _NUMBERS:
            found = "arrays" if kind == _ARRAY else f"type {kind}"
            raise self.refuse(f"{key}: expected an array of numbers or strings, found {found}")
        entry_bytes = 8 if kind == _STRING else _NUMBERS[kind].itemsize
        most = min(_MOST_ELEMENTS, (self._size - self.at) // entry_bytes)
        if count > most:
            raise self.refuse(f"{key}: expected at most {most} elements, found {count}")
        return self._strings(key, count) if kind == _STRING else self._numbers(key, kind, count)

    def _numbers(self, key: str, kind: int, count: int) -> Array:
        dtype = _NUMBERS[kind]
        start = self.skip(count * dtype.itemsize, key)
        raw = self._pages[start : self.at]
        if kind == _BOOL:
            return np.frombuffer(raw, np.uint8) != 0
        return np.frombuffer(raw, dtype)

    def _strings(self, key: str, count: int) -> Strings:
        """Only lengths are read, each of which says where the next one is."""
        pages, size, unpack = self._pages, self._size, struct.Struct("<Q").unpack_from
        first, end, ends = self.at, self.at, []
        for _ in range(count):
            if end + 8 > size:
                break
            end += 8 + unpack(pages, end)[0]
            ends.append(end - first)
        if end > size or len(ends) < count:
            raise self.refuse(
                f"{key}: truncated: expected {count} strings, found {size} bytes for fewer"
            )
        self.skip(end - first, key)
        return Strings(f"{self.path}: {key}", pages[first:end], ends)


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
