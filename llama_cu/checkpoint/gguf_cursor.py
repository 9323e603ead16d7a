"""The header of a GGUF file, read front to back: counts, texts, values; damage is a ModelError."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.errors import ModelError

Array = Any

# No vocabulary comes near these; beyond them a header is damaged, however large its file is.
MOST_HEADER_BYTES = 64 << 20
_MOST_ELEMENTS = 1 << 21
_MOST_ENTRIES = 1 << 16

_STRING, _ARRAY, _FLOAT32, _BOOL = 8, 9, 6, 7
_NUMBERS: dict[int, np.dtype[Any]] = {
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


class Cursor:
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
