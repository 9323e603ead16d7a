"""The tensors of a GGUF file as a folder has them: its names, its order of rows, plain floats."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.gguf import GgufFile, GgufTensor
from llama_cu.checkpoint.tensor_file import FLOAT_NAMES, TensorEntry
from llama_cu.convert import FLOAT32, convert
from llama_cu.errors import ModelError
from llama_cu.weight_loading import BlockRows

Array = Any

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What the config has read already.
ROPE_FACTORS = "rope_freqs.weight"
# The architecture whose q and k have their rows in another order than Hugging Face's.
PERMUTED = "llama"

_LAYER_NAME = re.compile(r"blk\.(0|[1-9]\d{0,5})\.(\w+)\.(weight|bias)")
_TURNED_NAME = re.compile(r"blk\.\d+\.attn_[qk]\.(weight|bias)")
# Elements that are read and expanded at once.
_PIECE_SIZE = 1 << 18


class GgufTensors:
    """A GGUF file's tensors by Hugging Face's names; those of no such name keep their own.

    A tensor of blocks is read as the float32 that they stand for. `raw_rows` gives the blocks.
    """

    def __init__(self, path: Path, file: GgufFile | None = None) -> None:
        self.path = path
        self._file = file or GgufFile(path)
        self.num_heads = _num_heads(self._file)
        self._sources = {hf_name(name): name for name in self._file.tensors if name != ROPE_FACTORS}
        self.entries = {
            name: _entry(self._file.tensors[source]) for name, source in self._sources.items()
        }

    def tensor(self, name: str) -> GgufTensor:
        """The tensor as the file has it."""
        return self._file.tensors[self._sources[name]]

    def raw_rows(self, name: str, first: int, last: int) -> Array:
        """The bytes of rows first to last, in Hugging Face's order: uint8 [rows, bytes of a row].

        A vector counts as one row, but for the bias of a q or k whose heads are turned.
        """
        row_bytes, head_rows = self._rows(name)[1:]
        low, high = first // head_rows * head_rows, -(-last // head_rows) * head_rows
        raw = np.empty((high - low, row_bytes), np.uint8)
        self._file.read(self._sources[name], raw, low * row_bytes)
        if head_rows > 1:
            # GGUF rotates rows (0, 1), (2, 3), ... of a head; Hugging Face row i with i + half.
            pairs = raw.reshape(-1, head_rows // 2, 2, row_bytes)
            raw = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1, row_bytes)
        return raw[first - low : last - low]

    def read_into(self, name: str, out: Array, offset: int, *, start: int) -> None:
        """Fill `out` with the bytes of a tensor from byte start + offset on, in any thread.

        The bytes are those of the dtype in `entries`. ModelError where the file has become shorter
        than its header says.
        """
        itemsize = self._dtype(name).itemsize
        first = (start + offset) // itemsize
        last = first + out.nbytes // itemsize
        target = out.reshape(-1).view(self._dtype(name))
        expand = self.tensor(name).block_type.dequantize
        for begin, values in self._values(name, first, last, expand):
            target[begin - first : begin - first + values.size] = values

    def block_rows(self, name: str) -> BlockRows | None:
        """A matrix in blocks; None for a tensor of plain numbers."""
        tensor = self.tensor(name)
        if tensor.block_type.form is None or len(tensor.shape) != 2:
            return None
        num_rows, in_size = tensor.shape
        read = partial(self._read_blocks, name)
        return BlockRows(name, tensor.block_type, (num_rows, in_size), read)

    def _read_blocks(self, name: str, out: Array, offset: int) -> None:
        row_bytes = self._rows(name)[1]
        first, end = offset // row_bytes, -(-(offset + out.nbytes) // row_bytes)
        raw = self.raw_rows(name, first, end).reshape(-1)
        skipped = offset - first * row_bytes
        out.reshape(-1).view(np.uint8)[...] = raw[skipped : skipped + out.nbytes]

    def copy(self, name: str, out: Array, *, dtype: np.dtype[Any], packed: bool = False) -> None:
        """Write a tensor, rounded to `dtype`, into `out`: contiguous, of `dtype` or float32.

        `packed`: what its blocks are worth on a device that keeps them, `BlockType.rounded`.
        ModelError where a finite value is too large for `dtype`, or a scale is not finite in it.
        """
        flat = out.reshape(-1)
        expand = self.tensor(name).block_type.dequantize
        if packed:
            expand = partial(self._rounded, name, dtype)
        for begin, values in self._values(name, 0, flat.size, expand):
            too_large = convert(values, flat[begin : begin + values.size], dtype=dtype)
            if too_large is not None:
                raise ModelError(
                    f"{self.path}: tensor {name}: expected values that fit {dtype.name}, "
                    f"found {too_large:g}"
                )

    def _rounded(self, name: str, dtype: np.dtype[Any], raw: Array) -> Array:
        try:
            return self.tensor(name).block_type.rounded(raw, dtype)
        except ValueError as error:
            raise ModelError(f"{self.path}: tensor {name}: {error}") from error

    def _values(
        self, name: str, first: int, last: int, expand: Callable[[Array], Array]
    ) -> Iterator[tuple[int, Array]]:
        """(first element, flat numbers) from element `first` to `last`, a few rows at a time."""
        block_type = self.tensor(name).block_type
        row_size, _, head_rows = self._rows(name)
        step = max(1, _PIECE_SIZE // (row_size * head_rows)) * head_rows
        for row in range(first // row_size, -(-last // row_size), step):
            end_row = min(row + step, -(-last // row_size))
            raw = self.raw_rows(name, row, end_row)
            if block_type.dtype is not None:
                values = raw.reshape(-1).view(block_type.dtype)
            else:
                values = expand(raw).reshape(-1)
            begin = max(first, row * row_size)
            yield begin, values[begin - row * row_size : last - row * row_size]

    def _rows(self, name: str) -> tuple[int, int, int]:
        """(numbers in a row, bytes of a row, rows that change places among each other)."""
        tensor, source = self.tensor(name), self._sources[name]
        turned = self.num_heads is not None and _TURNED_NAME.fullmatch(source) is not None
        rows = tensor.shape[0] if turned or len(tensor.shape) > 1 else 1
        row_size = math.prod(tensor.shape) // rows
        head_rows = 1
        if turned and self.num_heads is not None:
            heads = self.num_heads[".attn_k." in source]
            head_rows = rows // heads
            if rows % heads or head_rows % 2 or row_size % tensor.block_type.block_size:
                raise ModelError(
                    f"{self.path}: tensor {name}: expected {heads} heads of an even number of "
                    f"rows, found {list(tensor.shape)}"
                )
        return row_size, tensor.block_type.num_bytes((row_size,)), head_rows

    def _dtype(self, name: str) -> np.dtype[Any]:
        return self.tensor(name).block_type.dtype or FLOAT32


def hf_name(name: str) -> str:
    """model.layers.3.self_attn.q_proj.weight for blk.3.attn_q.weight; unknown names stay."""
    match = _LAYER_NAME.fullmatch(name)
    if match and match[2] in LAYER_NAMES:
        return f"model.layers.{match[1]}.{LAYER_NAMES[match[2]]}.{match[3]}"
    return NAMES.get(name, name)


def _num_heads(file: GgufFile) -> tuple[int, int] | None:
    """Heads of q and of k where their rows are turned; None where they are not."""
    fields = file.fields()
    if fields.values.get("general.architecture") != PERMUTED:
        return None
    heads = fields.integer(f"{PERMUTED}.attention.head_count")
    return heads, fields.integer(f"{PERMUTED}.attention.head_count_kv", heads)


def _entry(tensor: GgufTensor) -> TensorEntry:
    dtype = tensor.block_type.dtype or FLOAT32
    num_bytes = math.prod(tensor.shape) * dtype.itemsize
    return TensorEntry(FLOAT_NAMES[dtype], tensor.shape, tensor.offset, num_bytes)
