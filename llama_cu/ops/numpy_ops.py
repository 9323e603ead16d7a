"""The specification: every op in NumPy, to be checked by eye. It is also the CPU fallback.

Arrays are float32 whatever the dtype; for float16 and bfloat16 each result is rounded to the
dtype, so that the arithmetic is the one of the CUDA kernels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from llama_cu.batch import Batch, LogitEdits, SamplingRows
from llama_cu.philox import random_bits

Array = Any

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# A BLAS matrix-matrix product packs the whole weight first; below this many rows one
# matrix-vector product per row is faster, and a row's result cannot depend on its neighbours.
_MAX_ROWS_BY_VECTOR = 4

# A matrix-vector product streams a matrix along its contiguous axis, a few lines side by side.
# Lines up to this length are so short that memory keeps starting anew: the other, longer axis is
# made the contiguous one. Measured with OpenBLAS 0.3.31 on Zen 3: 24 against 33 GB/s for 576.
_MAX_SHORT_LINE = 1024

# Only large arrays get huge pages: smaller weights share chunks of 16 MiB, each weight on a
# cache line of its own.
_CHUNK_ELEMENTS = 4 << 20
_LINE_ELEMENTS = 16

# Queries of a prefill are taken in tiles: a tile looks at no key behind its last query, and its
# scores stay in the cache. On Zen 3, sizes from 32 to 128 measured alike; the bound on a tile's
# scores, in elements, is for long contexts.
_MAX_TILE_QUERIES = 64
_MAX_TILE_SCORES = 1 << 22

# Where the system does not tell how much memory is available.
_ASSUMED_MEMORY = 4 << 30

_WEIGHT_ONE = np.float32(2**40)


class NumpyOps:
    """`Ops` on the CPU."""

    device_name = "cpu (NumPy)"

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.storage_dtype = np.dtype(np.float32)
        self._exact = dtype == np.float32  # nothing to round
        self._chunk = np.empty(0, np.float32)

    def upload(self, host_array: Array) -> Array:
        return host_array

    def place_weight(self, host: Array) -> Array:
        if host.size >= _CHUNK_ELEMENTS:
            return np.asfortranarray(host) if _has_short_rows(host.shape) else host
        flat = self._take_chunk(host.size)
        placed = flat.reshape(host.shape, order="F" if _has_short_rows(host.shape) else "C")
        placed[...] = host
        return placed

    def _take_chunk(self, size: int) -> Array:
        if self._chunk.size < size:
            chunk = np.empty(_CHUNK_ELEMENTS + _LINE_ELEMENTS, np.float32)
            self._chunk = chunk[-chunk.ctypes.data // chunk.itemsize % _LINE_ELEMENTS :]
        taken = self._chunk[:size]
        self._chunk = self._chunk[-(-size // _LINE_ELEMENTS) * _LINE_ELEMENTS :]
        return taken

    def download(self, array: Array) -> Array:
        return array

    def empty(self, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, np.float32)

    def free_memory(self) -> int:
        meminfo = Path("/proc/meminfo")
        if meminfo.exists():
            lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
            return int(lines["MemAvailable"].split()[0]) * 1024
        return _ASSUMED_MEMORY

    def _round(self, x: Array) -> Array:
        return x if self._exact else x.astype(self.dtype).astype(np.float32)

    def gather(self, table: Array, rows: Array) -> Array:
        # take would first copy a whole table whose rows are not contiguous
        return table.take(rows, axis=0) if table.flags.c_contiguous else table[rows]

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        out = _matmul(x, weight)
        if residual is None:
            return self._round(out if bias is None else out + bias)
        if bias is not None:
            residual[...] = self._round(residual + bias)
        residual += out
        if not self._exact:
            residual[...] = self._round(residual)
        return residual

    def logits(self, x: Array, weight: Array) -> Array:
        return _matmul(x, weight)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        squares = np.vecdot(x, x)
        if squares.size == 1:  # the same in Python's floats, which one number is faster in
            root = math.sqrt(squares.item() / x.shape[-1] + eps)
        else:
            mean_squares = squares.astype(np.float64)[..., None] / x.shape[-1]
            root = np.sqrt(mean_squares + eps).astype(np.float32)
        return self._round(x / root * weight)

    def head_norm(self, x: Array, weight: Array, eps: float) -> None:
        x[...] = self.rms_norm(x, weight, eps)

    def rope_angles(
        self, inv_freq: Array, rope_rows: Array, positions: Array, scaling: float
    ) -> Array:
        angles = positions[:, None].astype(np.float32) * inv_freq[rope_rows]
        return np.concatenate((np.cos(angles), np.sin(angles)), axis=1) * np.float32(scaling)

    def rope(self, x: Array, cos_sin: Array) -> None:
        half = x.shape[-1] // 2
        cos, sin = cos_sin[:, None, :half], cos_sin[:, None, half:]
        first, second = x[..., :half], x[..., half:]
        rotated = first * cos - second * sin
        x[..., half:] = self._round(second * cos + first * sin)
        x[..., :half] = self._round(rotated)

    def store_kv(
        self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array
    ) -> None:
        k_cache.reshape(-1, *k.shape[1:])[slot_mapping] = k
        v_cache.reshape(-1, *v.shape[1:])[slot_mapping] = v

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        batch: Batch,
        scale: float,
        window: int | None,
    ) -> Array:
        num_tokens, num_heads, head_dim = q.shape
        out = np.empty((num_tokens, num_heads, head_dim), np.float32)
        start = 0
        for i, query_len in enumerate(batch.query_lens):
            blocks = batch.block_slices[i] or list(batch.host_block_tables[i])
            context_len = batch.host_context_lens[i]
            k = k_cache[blocks].reshape(-1, *k_cache.shape[2:])[:context_len]
            v = v_cache[blocks].reshape(-1, *v_cache.shape[2:])[:context_len]
            tile = max(1, min(_MAX_TILE_QUERIES, _MAX_TILE_SCORES // (context_len * num_heads)))
            position = context_len - query_len
            for first in range(position, context_len, tile):
                stop = min(first + tile, context_len)
                rows = slice(start + first - position, start + stop - position)
                out[rows] = _attend(q[rows], k[:stop], v[:stop], scale, window)
            start += query_len
        return self._round(out.reshape(num_tokens, num_heads * head_dim))

    def softmax(self, scores: Array, position: int, window: int | None) -> Array:
        _, num_queries, row_size = scores.shape
        hidden = _hidden(num_queries, row_size, position, window)
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
        edited = logits.copy()
        rows, ids = edits.rows, edits.token_ids
        repetition, presence, frequency = edits.penalties[rows].T
        value = logits[rows, ids]
        divided = np.where(value > 0, value / repetition, value * repetition)
        value = np.where(edits.seen != 0, divided, value)
        value = value - frequency * edits.counts.astype(np.float32)
        value = value - np.where(edits.counts > 0, presence, np.float32(0))
        edited[rows, ids] = value + edits.biases
        return edited

    def sample(self, logits: Array, rows: SamplingRows) -> Array:
        if rows.all_greedy:
            return logits.argmax(axis=-1).astype(np.int32)
        return np.array([_draw(logits[i], rows, i) for i in range(len(logits))], np.int32)

    def logprobs(self, logits: Array, token_ids: Array, num_top: int) -> tuple[Array, Array, Array]:
        highest = logits.max(axis=-1, keepdims=True)
        log_sum = np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True)) + highest
        chosen = (np.take_along_axis(logits, token_ids[:, None], axis=-1) - log_sum)[:, 0]
        top_ids = np.array([_top(row, num_top) for row in logits], np.int32)
        top_ids = top_ids.reshape(len(logits), num_top)
        return chosen, top_ids, np.take_along_axis(logits, top_ids, axis=-1) - log_sum


def _has_short_rows(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] <= min(_MAX_SHORT_LINE, shape[0] // 2)


def _matmul(x: Array, weight: Array) -> Array:
    if x.shape[0] > _MAX_ROWS_BY_VECTOR or x.shape[0] == 1:
        return x.dot(weight.T)
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    for row in range(x.shape[0]):
        np.dot(weight, x[row], out=out[row])
    return out


def _attend(q: Array, k: Array, v: Array, scale: float, window: int | None) -> Array:
    """The last of the positions, whose queries are q, over all their keys: the shape of q."""
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads, _ = k.shape
    group = num_heads // num_kv_heads
    # [num_kv_heads, group * num_queries, head_dim]: one product serves a KV head's queries.
    grouped = q.reshape(num_queries, num_kv_heads, group, head_dim).transpose(1, 2, 0, 3)
    grouped = grouped.reshape(num_kv_heads, group * num_queries, head_dim) * np.float32(scale)
    scores = grouped @ k.transpose(1, 2, 0)
    if num_queries > 1 or (window is not None and num_keys > window):
        hidden = _hidden(num_queries, num_keys, num_keys - num_queries, window)
        per_query = scores.reshape(num_kv_heads, group, num_queries, num_keys)
        np.copyto(per_query, np.float32(-np.inf), where=hidden)
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    # Divided by the sum at the end: that are fewer numbers than the weights.
    attended = weights @ v.transpose(1, 0, 2)
    attended /= np.add.reduce(weights, axis=-1, keepdims=True)
    attended = attended.reshape(num_kv_heads, group, num_queries, head_dim)
    return attended.transpose(2, 0, 1, 3).reshape(q.shape)


def _hidden(num_queries: int, num_keys: int, position: int, window: int | None) -> Array:
    """Which keys a query at position, position + 1, ... does not see: [num_queries, num_keys]."""
    keys = np.arange(num_keys)
    queries = np.arange(position, position + num_queries)[:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return hidden


def _draw(logits: Array, rows: SamplingRows, i: int) -> int:
    """The token of one row.

    Weights are exp(logit / temperature) relative to the largest, as 40-bit fixed point: integer
    sums do not depend on their order, so every backend and every batch draws the same token.
    top-k keeps the logits that are not below the k-th largest; of these top-p keeps the fewest
    largest whose weights reach its share; of these min-p keeps weights of at least its share of
    the largest. Tied logits are kept together. The draw is the first id, in id order, whose
    prefix sum exceeds a uniform 64-bit fraction of the total.
    """
    temperature = rows.temperature[i]
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits / temperature
    top_k, top_p, min_p = int(rows.top_k[i]), rows.top_p[i], rows.min_p[i]
    lowest = np.float32(-np.inf)
    if 0 < top_k < scaled.size:
        lowest = np.partition(scaled, scaled.size - top_k)[scaled.size - top_k]
    ids = None if lowest == -np.inf else (scaled >= lowest).nonzero()[0]
    if ids is not None:
        scaled = scaled[ids]
    highest = scaled.max()
    if top_p < 1:
        falling = np.sort(scaled)[::-1]
        sums = _weights(falling, highest).cumsum()
        needed = max(1, int(np.float64(top_p) * np.float64(sums[-1])))
        kept = (scaled >= falling[sums.searchsorted(np.uint64(needed))]).nonzero()[0]
        scaled, ids = scaled[kept], kept if ids is None else ids[kept]
    weights = _weights(scaled, highest)
    if min_p > 0:
        kept = (weights >= np.uint64(np.float64(min_p) * 2.0**40)).nonzero()[0]
        weights, ids = weights[kept], kept if ids is None else ids[kept]
    sums = weights.cumsum()
    bits = random_bits(int(rows.seeds[i, 0]), int(rows.seeds[i, 1]), int(rows.positions[i]))
    target = (bits * int(sums[-1])) >> 64
    chosen = int(sums.searchsorted(np.uint64(target), side="right"))
    return chosen if ids is None else int(ids[chosen])


def _weights(scaled: Array, highest: Any) -> Array:
    return (np.exp(scaled - highest) * _WEIGHT_ONE).astype(np.uint64)


def _top(logits: Array, count: int) -> Array:
    if count == 0:
        return np.empty(0, np.int32)
    border = np.partition(logits, logits.size - count)[logits.size - count]
    candidates = np.flatnonzero(logits >= border)
    return candidates[np.lexsort((candidates, -logits[candidates]))][:count]
