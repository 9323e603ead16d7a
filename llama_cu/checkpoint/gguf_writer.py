"""Writes a GGUF file of version 3: metadata, a table of tensors, and their data one by one."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llama_cu.gguf_quants import BlockType

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True)
class OutTensor:
    """A tensor to be written; `shape` has rows first, rows are whole blocks."""

    name: str
    shape: tuple[int, ...]
    block_type: BlockType

    @property
    def num_bytes(self) -> int:
        return self.block_type.num_bytes(self.shape)


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Iterable[tuple[OutTensor, Iterator[bytes]]]
) -> None:
    """Write a file whole, or not at all: it is put together beside its place.

    Metadata values are texts, flags, whole numbers, floats, and lists of one of them. The data of a
    tensor are asked for when it is its turn. Raises OSError.
    """
    wanted = list(tensors)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as out:
            out.write(_header(metadata, [tensor for tensor, _ in wanted]))
            for tensor, data in wanted:
                _align(out)
                start = out.tell()
                out.writelines(data)
                assert out.tell() - start == tensor.num_bytes, tensor.name
            _align(out)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _header(metadata: Mapping[str, Any], tensors: list[OutTensor]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]
        parts.append(_text(tensor.name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        parts.append(struct.pack("<IQ", tensor.block_type.number, offset))
        offset += -(-tensor.num_bytes // _ALIGNMENT) * _ALIGNMENT
    return b"".join(parts)


def _align(out: BinaryIO) -> None:
    out.write(bytes(-out.tell() % _ALIGNMENT))


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    start = struct.pack("<I", _ARRAY)
    if isinstance(value, np.ndarray):
        kind = _FLOAT32 if value.dtype == np.float32 else _INT32
        return start + struct.pack("<IQ", kind, value.size) + value.tobytes()
    return start + struct.pack("<IQ", _STRING, len(value)) + b"".join(map(_text, value))
