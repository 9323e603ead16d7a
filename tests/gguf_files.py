"""GGUF files written from the format's definition, and what their blocks are worth, one by one."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# name: number in the file, weights in a block, bytes of a block
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
# Where float16 scales are in a block.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


@dataclass(frozen=True)
class Typed:
    """A metadata value of one of the thirteen types; an array's is (type of its elements, list)."""

    kind: int
    value: Any


@dataclass(frozen=True)
class Stored:
    """A tensor as it goes into a file; `shape` has rows first, the file writes it reversed."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


def float_tensor(array: np.ndarray, kind: str = "F32") -> Stored:
    if kind == "BF16":
        bits = array.astype("<f4").view("<u4")
        return Stored(kind, array.shape, (bits >> 16).astype("<u2").tobytes())
    return Stored(kind, array.shape, array.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes())


def random_blocks(kind: str, num_blocks: int, rng: np.random.Generator, *, scale: float) -> bytes:
    """Blocks of random bits, but for scales, which are random numbers up to `scale`."""
    _, block_size, block_bytes = TYPES[kind]
    if block_size == 1:
        values = rng.uniform(-scale, scale, num_blocks).astype(np.float32)
        return float_tensor(values, kind).data
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), np.uint8)
    for at in SCALES[kind]:
        halves = rng.uniform(-scale, scale, (num_blocks, 1)).astype("<f2")
        blocks[:, at : at + 2] = halves.view(np.uint8)
    return blocks.tobytes()


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_bytes(value: Any) -> bytes:
    """A metadata value with its type: Python's types as the usual converters write them."""
    if isinstance(value, str | bytes):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, list):
        kind = {str: STRING, bytes: STRING, int: 5, float: 6, bool: 7}[type(value[0])]
        value = Typed(ARRAY, (kind, value))
    if value.kind != ARRAY:
        return struct.pack(f"<I{CODES[value.kind]}", value.kind, value.value)
    kind, values = value.value
    start = struct.pack("<IIQ", ARRAY, kind, len(values))
    if kind == STRING:
        return start + b"".join(map(text, values))
    return start + struct.pack(f"<{len(values)}{CODES[kind]}", *values)


def gguf_bytes(
    metadata: dict[str, Any],
    tensors: dict[str, Stored],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    header += b"".join(text(key) + value_bytes(value) for key, value in metadata.items())
    table, data = b"", b""
    for name, tensor in tensors.items():
        data += bytes(-len(data) % alignment)
        sizes = tensor.shape[::-1]
        table += text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        table += struct.pack("<IQ", TYPES[tensor.kind][0], len(data))
        data += tensor.data
    start = header + table
    return start + bytes(-len(start) % alignment) + data


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, Stored], **options: int):
    path.write_bytes(gguf_bytes(metadata, tensors, **options))
    return path


def slow_values(kind: str, data: bytes) -> list[float]:
    """What blocks are worth: one weight after the other, in Python's numbers."""
    block_bytes = TYPES[kind][2]
    blocks = [data[at : at + block_bytes] for at in range(0, len(data), block_bytes)]
    return [value for block in blocks for value in SLOW[kind](block)]


def _half(block: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", block, at)[0])


def _nibble(packed: bytes, index: int, size: int) -> int:
    """Of `size` numbers in size / 2 bytes: the first half is in the low bits, the rest above."""
    byte = packed[index % (size // 2)]
    return byte & 15 if index < size // 2 else byte >> 4


def _bit(packed: bytes, index: int) -> int:
    return packed[index // 8] >> (index % 8) & 1


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _bf16(block: bytes) -> list[float]:
    return [struct.unpack("<f", b"\0\0" + block)[0]]


def _q8_0(block: bytes) -> list[float]:
    return [_half(block, 0) * _signed(byte) for byte in block[2:]]


def _q4_0(block: bytes) -> list[float]:
    return [_half(block, 0) * (_nibble(block[2:], i, 32) - 8) for i in range(32)]


def _q4_1(block: bytes) -> list[float]:
    return [_half(block, 0) * _nibble(block[4:], i, 32) + _half(block, 2) for i in range(32)]


def _q5(packed: bytes, bits: bytes, index: int) -> int:
    return _nibble(packed, index, 32) + 16 * _bit(bits, index)


def _q5_0(block: bytes) -> list[float]:
    return [_half(block, 0) * (_q5(block[6:], block[2:6], i) - 16) for i in range(32)]


def _q5_1(block: bytes) -> list[float]:
    d, m = _half(block, 0), _half(block, 2)
    return [d * _q5(block[8:], block[4:8], i) + m for i in range(32)]


def _scale_and_minimum(packed: bytes, j: int) -> tuple[int, int]:
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    low = packed[j + 4]
    return (low & 15) | (packed[j - 4] >> 6 << 4), (low >> 4) | (packed[j] >> 6 << 4)


def _k_value(block: bytes, index: int, number: int) -> float:
    scale, minimum = _scale_and_minimum(block[4:16], index // 32)
    return _half(block, 0) * scale * number - _half(block, 2) * minimum


def _q4_k(block: bytes) -> list[float]:
    packed = [block[16 + 32 * i : 48 + 32 * i] for i in range(4)]
    numbers = [_nibble(packed[i // 64], i % 64, 64) for i in range(256)]
    return [_k_value(block, i, number) for i, number in enumerate(numbers)]


def _q5_k(block: bytes) -> list[float]:
    packed = [block[48 + 32 * i : 80 + 32 * i] for i in range(4)]
    values = []
    for i in range(256):
        fifth = block[16 + i % 32] >> (i // 32) & 1
        values.append(_k_value(block, i, _nibble(packed[i // 64], i % 64, 64) + 16 * fifth))
    return values


def _q6_k(block: bytes) -> list[float]:
    values = []
    for i in range(256):
        half, place = divmod(i, 128)
        quarter, column = divmod(place, 32)
        low = block[64 * half + 32 * (quarter % 2) + column] >> (4 * (quarter // 2)) & 15
        high = block[128 + 32 * half + column] >> (2 * quarter) & 3
        scale = _signed(block[192 + i // 16])
        values.append(_half(block, 208) * scale * (low + 16 * high - 32))
    return values


SLOW = {
    "F32": lambda block: [struct.unpack("<f", block)[0]],
    "F16": lambda block: [_half(block, 0)],
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def expand(tensor: Stored) -> np.ndarray:
    """A tensor's values as float32, from the slow rule."""
    assert (
        len(tensor.data)
        == math.prod(tensor.shape) // TYPES[tensor.kind][1] * (TYPES[tensor.kind][2])
    )
    return np.array(slow_values(tensor.kind, tensor.data), np.float32).reshape(tensor.shape)
