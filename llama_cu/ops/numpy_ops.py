"""The specification: every op in NumPy, to be checked by eye. It is also the CPU fallback.

Arrays are float32 whatever the dtype; for float16 and bfloat16 each result is rounded to the
dtype, so that the arithmetic is the one of the CUDA kernels.
"""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llama_cu.batch import Batch, DecodeRows, LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.base import Ops
from llama_cu.ops.compact import CompactLoader, quantize_compactly
from llama_cu.ops.int8_cache import Int8Cache, quantize_rows, scales_shape
from llama_cu.ops.numpy_attention import Attention, unseen
from llama_cu.ops.numpy_matrix import Shelf, matmul, take_rows
from llama_cu.ops.numpy_sampling import draw, edit, logprobs, mask
from llama_cu.quantized import Scheme, rounded
from llama_cu.weight_loading import WeightLoader

Array = Any

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# Where the system does not tell how much memory is available.
_ASSUMED_MEMORY = 4 << 30


class NumpyOps(Ops):
    """`Ops` on the CPU.

    With `low_memory` matrices are held as small as their file, or a scheme, has them, and expanded
    in each product; that is for float32 alone, ValueError else.
    """

    device = None
    device_name = "cpu (NumPy)"

    def __init__(self, dtype: np.dtype[Any], *, low_memory: bool = False) -> None:
        if low_memory and dtype != np.float32:
            raise ValueError(f"low_memory computes in float32 on a CPU, got dtype {dtype.name}")
        self.dtype = dtype
        self.storage_dtype = np.dtype(np.float32)
        self._exact = dtype == np.float32  # nothing to round
        self._low_memory = low_memory
        self._shelf = Shelf()
        self._attention = Attention()

    def upload(self, host_array: Array) -> Array:
        return host_array

    def place_weight(self, host: Array) -> Array:
        return self._shelf.place(host)

    def quantize(self, weight: Array, scheme: Scheme, *, paired: bool) -> Array:
        if self._low_memory:
            return quantize_compactly(weight, scheme)
        return self.place_weight(rounded(weight, scheme, self.dtype))

    @property
    def keeps_blocks(self) -> bool:
        return not self._exact

    def weight_loader(self) -> WeightLoader | None:
        return CompactLoader(self.place_weight) if self._low_memory else None

    def download(self, array: Array) -> Array:
        return array

    def empty(self, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, self.storage_dtype)

    def empty_cache(self, shape: tuple[int, int, int, int], kv_dtype: str) -> Array | Int8Cache:
        if kv_dtype != "int8":
            return _untouched(shape, np.dtype(np.float32))
        values = _untouched(shape, np.dtype(np.int8))
        return Int8Cache(values, _untouched(scales_shape(shape), np.dtype(np.float32)))

    def free_memory(self) -> int:
        meminfo = Path("/proc/meminfo")
        if meminfo.exists():
            lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024
        return _ASSUMED_MEMORY

    def random_weight(self, shape: tuple[int, ...], *, seed: int, scale: float) -> Array:
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        values *= np.float32(scale)
        return self.place_weight(self._round(values))

    def synchronize(self) -> None:
        pass  # NumPy is done when it returns

    def _round(self, x: Array) -> Array:
        return x if self._exact else x.astype(self.dtype).astype(np.float32)

    def captures(self, head_dim: int) -> bool:
        return False

    def begin_decode(
        self, lengths: Array, block_tables: Array, block_size: int, rope_from: int | None
    ) -> DecodeRows:
        is_empty = lengths < 0
        positions = np.maximum(lengths, 0)
        blocks = block_tables[np.arange(len(lengths)), positions // block_size]
        slots = blocks * block_size + positions % block_size
        past = np.zeros_like(positions) if rope_from is None else positions + 1 - rope_from
        lengths += ~is_empty
        return DecodeRows(
            positions=positions,
            rope_rows=np.maximum(past, 0),
            slot_mapping=np.where(is_empty, -1, slots).astype(np.int32),
            context_lens=positions + np.int32(1),
        )

    def gather(self, table: Array, rows: Array) -> Array:
        return take_rows(table, rows)

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        out = matmul(x, weight)
        if residual is None:
            return self._round(out if bias is None else out + bias)
        if bias is not None:
            residual[...] = self._round(residual + bias)
        residual += out
        if not self._exact:
            residual[...] = self._round(residual)
        return residual

    def logits(self, x: Array, weight: Array) -> Array:
        return matmul(x, weight)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        squares = np.vecdot(x, x)
        if squares.size == 1:  # the same in Python's floats, which one number is faster in
            root = math.sqrt(squares.item() / x.shape[-1] + eps)
        else:
            mean_squares = squares.astype(np.float64)[..., None] / x.shape[-1]
            root = np.sqrt(mean_squares + eps).astype(np.float32)
        out = x / root
        out *= weight
        return self._round(out)

    def head_norm(self, x: Array, weight: Array, eps: float) -> None:
        x[...] = self.rms_norm(x, weight, eps)

    def rope_angles(
        self, inv_freq: Array, rope_rows: Array, positions: Array, scaling: float
    ) -> Array:
        angles = inv_freq.take(rope_rows, axis=0)
        angles *= positions.astype(np.float32)[:, None]
        cos_sin = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
        cos_sin *= np.float32(scaling)
        return cos_sin

    def rope(self, x: Array, cos_sin: Array) -> None:
        half = x.shape[-1] // 2
        cos, sin = cos_sin[:, None, :half], cos_sin[:, None, half:]
        first, second = x[..., :half], x[..., half:]
        rotated = first * cos
        rotated -= second * sin
        second *= cos
        second += first * sin
        first[...] = rotated
        if not self._exact:
            x[...] = self._round(x)

    def store_kv(
        self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array
    ) -> None:
        # an index array for one token costs more than the copy
        slots = slot_mapping.item() if slot_mapping.size == 1 else slot_mapping[slot_mapping >= 0]
        if slot_mapping.size == 1:
            if slots < 0:
                return
        elif slots.size < slot_mapping.size:
            k, v = k[slot_mapping >= 0], v[slot_mapping >= 0]
        _store(k, k_cache, slots)
        _store(v, v_cache, slots)

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        batch: Batch,
        scale: float,
        window: int | None,
    ) -> Array:
        attended = self._attention(q, k_cache, v_cache, batch, scale=scale, window=window)
        return self._round(attended.reshape(len(q), -1))

    def softmax(self, scores: Array, position: int, window: int | None) -> Array:
        _, num_queries, row_size = scores.shape
        hidden = unseen(num_queries, row_size, position, window)
        weights = np.where(hidden, -np.inf, scores)
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        return self._round(weights / weights.sum(axis=-1, keepdims=True))

    def swiglu(self, gate_up: Array) -> Array:
        size = gate_up.shape[-1] // 2
        gate, up = gate_up[:, :size], gate_up[:, size:]
        out = np.negative(gate)
        with np.errstate(over="ignore"):  # exp(-gate) = inf gives the right limit, -0
            np.exp(out, out=out)
        out += np.float32(1)
        np.divide(gate, out, out=out)
        out *= up
        return self._round(out)

    def edit_logits(self, logits: Array, edits: LogitEdits) -> Array:
        return edit(logits, edits)

    def mask_logits(self, logits: Array, masks: LogitMasks) -> Array:
        return mask(logits, masks)

    def sample(self, logits: Array, rows: SamplingRows, out: Array | None = None) -> Array:
        out = np.empty(len(logits), np.int32) if out is None else out
        if rows.all_greedy:
            out[:] = logits.argmax(axis=-1)
        else:
            out[:] = [draw(logits[i], rows, i) for i in range(len(logits))]
        return out

    def logprobs(self, logits: Array, token_ids: Array, num_top: int) -> tuple[Array, Array, Array]:
        return logprobs(logits, token_ids, num_top)


def _untouched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros that take up memory only where they are touched, page by page.

    Of large arrays NumPy asks for huge pages, and the first tokens would clear 2 MiB for the K and
    again for the V of each layer: 128 ms with 30 layers, not 13.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if sys.platform == "win32":
        pages = mmap.mmap(-1, num_bytes)
    else:
        pages = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


def _store(rows: Array, cache: Array | Int8Cache, slots: Array | int) -> None:
    if isinstance(cache, Int8Cache):
        numbers, scales = quantize_rows(rows if isinstance(slots, np.ndarray) else rows[0])
        block_size = cache.shape[1]
        cache.values.reshape(-1, *rows.shape[1:])[slots] = numbers
        cache.scales[slots // block_size, :, slots % block_size] = scales
    else:
        cache.reshape(-1, *rows.shape[1:])[slots] = rows
