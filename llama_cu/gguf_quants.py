"""GGUF's block types: how many weights a block holds, in how many bytes, and what they are worth.

Nothing here knows of files. All numbers are little endian. `kernels/gguf.cu` reads the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from llama_cu.quantized import GROUP_SIZE, Form, finite_scales, rounded_once, scale_dtype

Array = Any

FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
_HALF = np.dtype("<f2")
# Weights expanded at once: so few that the temporaries stay in a core's cache.
_PIECE_SIZE = 1 << 16


@dataclass(frozen=True)
class Parts:
    """Blocks taken apart: weight = number * scale + minimum, for groups of neighbours."""

    numbers: Array  # float32 [num_blocks, groups, size of a group], whole numbers
    scales: Array  # float32 [num_blocks, groups]
    minima: Array | None = None  # float32 [num_blocks, groups]


@dataclass(frozen=True)
class BlockType:
    """A type of tensor data: blocks of `block_size` weights in `block_bytes` bytes each."""

    name: str
    number: int  # in a file's tensor table
    block_size: int
    block_bytes: int
    parts: Callable[[Array], Parts] | None
    """Of blocks uint8 [num_blocks, block_bytes]; None for types of plain numbers."""
    form: Form | None = None  # as a device packs it
    dtype: np.dtype[Any] | None = None  # of the types whose blocks are plain numbers

    def dequantize(self, raw: Array) -> Array:
        """float32 [..., num_blocks * block_size] from uint8 [..., num_blocks * block_bytes].

        Products and sums are float32, in the order in which the format defines them.
        """
        return self._by_pieces(raw, self._values)

    def rounded(self, raw: Array, dtype: np.dtype[Any]) -> Array:
        """What a device's packed form of the blocks is worth, float32, for ops of a dtype.

        Scales and minima are rounded to `scale_dtype`, and the weight to `dtype`, once. ValueError
        where one of them is not finite.
        """
        of_scales = scale_dtype(dtype)

        def values(blocks: Array) -> Array:
            parts = self._parts(blocks)
            scales = finite_scales(parts.scales, of_scales).astype(np.float64)[:, :, None]
            exact = parts.numbers * scales
            if parts.minima is not None:
                exact += finite_scales(parts.minima, of_scales).astype(np.float64)[:, :, None]
            return rounded_once(exact, dtype)

        return self._by_pieces(raw, values)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor whose rows are whole blocks."""
        return math.prod(shape) // self.block_size * self.block_bytes

    def _by_pieces(self, raw: Array, values: Callable[[Array], Array]) -> Array:
        blocks = np.ascontiguousarray(raw).reshape(-1, self.block_bytes)
        out = np.empty((len(blocks), self.block_size), FLOAT32)
        step = _PIECE_SIZE // self.block_size
        with np.errstate(invalid="ignore"):  # a damaged scale is an infinity or a NaN
            for first in range(0, len(blocks), step):
                found = values(blocks[first : first + step])
                out[first : first + step] = found.reshape(-1, self.block_size)
        num_blocks = raw.shape[-1] // self.block_bytes
        return out.reshape(*raw.shape[:-1], num_blocks * self.block_size)

    def _values(self, blocks: Array) -> Array:
        if self.dtype is not None:
            return blocks.view(self.dtype).astype(FLOAT32)
        parts = self._parts(blocks)
        values = parts.numbers * parts.scales[:, :, None]
        if parts.minima is not None:
            values += parts.minima[:, :, None]
        return values

    def _parts(self, blocks: Array) -> Parts:
        if self.parts is None:
            raise ValueError(f"{self.name} has no parts")
        return self.parts(blocks)


def _halves(blocks: Array, at: int) -> Array:
    """The float16 at byte `at` of each block, as float32 [num_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(_HALF).astype(FLOAT32)


def _nibbles(packed: Array) -> Array:
    """[..., n] bytes as [..., 2 n] numbers below 16: all low halves, then all high ones."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def _fifth_bits(packed: Array) -> Array:
    """16 for every bit that is set in [..., 4] bytes, lowest first: [..., 32]."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _signed(numbers: Array, offset: int) -> Array:
    return (numbers.view(np.int8) - np.int8(offset)).astype(FLOAT32)


def _whole(numbers: Array) -> Array:
    """As float32 [num_blocks, 1, block_size]."""
    return numbers.astype(FLOAT32)[:, None, :]


def _q8_0(blocks: Array) -> Parts:
    return Parts(_whole(blocks[:, 2:].view(np.int8)), _halves(blocks, 0))


def _q4_0(blocks: Array) -> Parts:
    return Parts(_signed(_nibbles(blocks[:, None, 2:]), 8), _halves(blocks, 0))


def _q4_1(blocks: Array) -> Parts:
    return Parts(_whole(_nibbles(blocks[:, 4:])), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(blocks: Array) -> Parts:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return Parts(_signed(numbers[:, None, :], 16), _halves(blocks, 0))


def _q5_1(blocks: Array) -> Parts:
    numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return Parts(_whole(numbers), _halves(blocks, 0), _halves(blocks, 2))


def _sub_scales(packed: Array) -> tuple[Array, Array]:
    """Eight scales and eight minima of 6 bits each from [num_blocks, 12] bytes.

    The first four of each are the low bits of bytes 0 to 7; the others have their low four bits in
    bytes 8 to 11 and their high two above the first ones.
    """
    first, second, mixed = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, two = np.uint8(63), np.uint8(6)
    scales = [first & low, (mixed & np.uint8(15)) | ((first >> two) << np.uint8(4))]
    minima = [second & low, (mixed >> np.uint8(4)) | ((second >> two) << np.uint8(4))]
    return np.concatenate(scales, axis=1), np.concatenate(minima, axis=1)


def _scaled(blocks: Array, numbers: Array) -> Parts:
    """d * scale * number - dmin * minimum, where numbers are uint8 [num_blocks, 8, 32]."""
    scales, minima = _sub_scales(blocks[:, 4:16])
    steps = _halves(blocks, 0) * scales.astype(FLOAT32)
    return Parts(numbers.astype(FLOAT32), steps, -(_halves(blocks, 2) * minima.astype(FLOAT32)))


def _q4_k(blocks: Array) -> Parts:
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    return _scaled(blocks, _nibbles(packed).reshape(-1, 8, 32))


def _q5_k(blocks: Array) -> Parts:
    packed = blocks[:, 48:].reshape(-1, 4, 32)
    # Bit s of byte i belongs to number i of sub-block s.
    places = np.arange(8, dtype=np.uint8)[:, None]
    fifth = ((blocks[:, None, 16:48] >> places) & np.uint8(1)) << np.uint8(4)
    return _scaled(blocks, _nibbles(packed).reshape(-1, 8, 32) | fifth)


def _q6_k(blocks: Array) -> Parts:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    places = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> places) & np.uint8(3)
    numbers = _signed(low | (high << np.uint8(4)), 32).reshape(-1, 16, 16)
    return Parts(numbers, _halves(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(FLOAT32))


_FOUR, _SIX = Form(4, GROUP_SIZE), Form(6, GROUP_SIZE)
BLOCK_TYPES = (
    BlockType("F32", 0, 1, 4, None, None, FLOAT32),
    BlockType("F16", 1, 1, 2, None, None, FLOAT16),
    BlockType("BF16", 30, 1, 2, None, None, np.dtype(ml_dtypes.bfloat16)),
    BlockType("Q8_0", 8, 32, 34, _q8_0, Form(8, GROUP_SIZE)),
    BlockType("Q4_0", 2, 32, 18, _q4_0, _FOUR),
    BlockType("Q4_1", 3, 32, 20, _q4_1, _FOUR),
    BlockType("Q5_0", 6, 32, 22, _q5_0, _SIX),
    BlockType("Q5_1", 7, 32, 24, _q5_1, _SIX),
    BlockType("Q4_K", 12, 256, 144, _q4_k, _FOUR),
    BlockType("Q5_K", 13, 256, 176, _q5_k, _SIX),
    BlockType("Q6_K", 14, 256, 210, _q6_k, Form(6, 16)),
)
BY_NUMBER = {block_type.number: block_type for block_type in BLOCK_TYPES}

# The names of the others, so that a refusal can say what it found.
OTHER_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
