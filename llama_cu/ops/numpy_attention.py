"""Attention over the paged cache, in NumPy.

Sequences share the copies out of the cache and the softmax; each has products of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from llama_cu.batch import Batch
from llama_cu.ops.int8_cache import Int8Cache
from llama_cu.ops.numpy_matrix import blas_uses_avx512

Array = Any

# Queries of a prefill are taken in tiles: a tile looks at no key behind its last query, and its
# scores stay in the cache. On Zen 3, sizes from 32 to 64 measured alike, and 128 slower; the bound
# on a tile's scores, in elements, is for long contexts.
_MAX_TILE_QUERIES = 64
_MAX_TILE_SCORES = 1 << 22

# As many elements of K, and of V, are copied together at most, unless one sequence has more.
_MAX_GATHERED = 1 << 20

# K and V, both [num_tokens, num_kv_heads, head_dim]: True of the cache itself, False of a copy.
_Sources = dict[bool, tuple[Array, Array]]


@dataclass(frozen=True)
class _Sequence:
    queries: slice  # its rows of q
    num_keys: int  # as far as its queries see them
    in_place: bool  # read out of the cache, else out of a copy of the group's blocks
    keys: slice  # their rows of either

    def read(self, sources: _Sources) -> tuple[Array, Array]:
        k, v = sources[self.in_place]
        return k[self.keys], v[self.keys]


class _Group:
    """Sequences that share a softmax, and a copy of the blocks of those that are not in place."""

    def __init__(self, blocks: list[int], sequences: list[_Sequence]) -> None:
        self.blocks = np.array(blocks, np.int32)
        self.prefills = [one for one in sequences if one.queries.stop - one.queries.start > 1]
        self.decodes = [one for one in sequences if one.queries.stop - one.queries.start == 1]
        self.decode_rows = np.array([one.queries.start for one in self.decodes])


class Attention:
    """`Ops.attention`, with what it keeps: the memory for copies of K and V, a batch's groups."""

    def __init__(self) -> None:
        self._k_copy = self._v_copy = np.empty(0, np.float32)
        self._batch: Batch | None = None
        self._groups: dict[int | None, list[_Group]] = {}

    # BLAS computes more than it was asked for, from what its buffers held before. That never
    # reaches a result, but it can look like an invalid operation to NumPy, which warns.
    @np.errstate(invalid="ignore")
    def __call__(
        self,
        q: Array,
        k_cache: Array | Int8Cache,
        v_cache: Array | Int8Cache,
        batch: Batch,
        *,
        scale: float,
        window: int | None,
    ) -> Array:
        """In the shape of q, not rounded."""
        out = np.empty(q.shape, np.float32)
        for group in self._groups_of(batch, k_cache, window):
            sources = self._sources(k_cache, v_cache, group.blocks)
            if len(group.decodes) > 1:
                _attend_one_each(q, sources, group, scale, out=out)
            elif group.decodes:
                row = group.decodes[0].queries.start
                k, v = group.decodes[0].read(sources)
                _attend_one(q[row], k, v, scale, out=out[row])
            for prefill in group.prefills:
                rows = prefill.queries
                k, v = prefill.read(sources)
                _attend(q[rows], k, v, scale, window, out=out[rows])
        return out

    def _groups_of(
        self, batch: Batch, cache: Array | Int8Cache, window: int | None
    ) -> list[_Group]:
        if batch is not self._batch:  # else another layer of the same step
            self._batch, self._groups = batch, {}
        if window not in self._groups:
            self._groups[window] = list(_grouped(batch, cache, window))
        return self._groups[window]

    def _sources(
        self, k_cache: Array | Int8Cache, v_cache: Array | Int8Cache, blocks: Array
    ) -> _Sources:
        """K and V of a copy of some blocks, and of the cache, token by token."""
        row = k_cache.shape[2:]
        shape = (len(blocks), *k_cache.shape[1:])
        size = math.prod(shape)
        if self._k_copy.size < size:  # kept, since new memory costs several times the copy
            self._k_copy, self._v_copy = np.empty(size, np.float32), np.empty(size, np.float32)
        k, v = (copy[:size].reshape(shape) for copy in (self._k_copy, self._v_copy))
        if size:
            _gather(k_cache, blocks, out=k)
            _gather(v_cache, blocks, out=v)
        sources = {False: (k.reshape(-1, *row), v.reshape(-1, *row))}
        if not isinstance(k_cache, Int8Cache) and not isinstance(v_cache, Int8Cache):
            sources[True] = k_cache.reshape(-1, *row), v_cache.reshape(-1, *row)
        return sources


def _gather(cache: Array | Int8Cache, blocks: Array, *, out: Array) -> None:
    # No block is out of range; to be able to say so, take would copy twice.
    if isinstance(cache, Int8Cache):
        values = cache.values.take(blocks, axis=0, mode="clip")
        scales = cache.scales.take(blocks, axis=0, mode="clip").transpose(0, 2, 1)
        np.multiply(values, scales[..., None], out=out)
    else:
        cache.take(blocks, axis=0, out=out, mode="clip")


def _grouped(batch: Batch, cache: Array | Int8Cache, window: int | None) -> Iterator[_Group]:
    """The sequences of a batch in order. One whose blocks lie in a row is read in place."""
    _, block_size, *row = cache.shape
    most_blocks = _MAX_GATHERED // (block_size * math.prod(row))
    blocks: list[int] = []
    sequences: list[_Sequence] = []
    num_blocks = 0
    next_row = 0
    for i, query_len in enumerate(batch.query_lens):
        queries = slice(next_row, next_row + query_len)
        next_row += query_len
        end = batch.host_context_lens[i]
        first = 0 if window is None else max(0, end - query_len - window + 1)
        own = batch.host_block_tables[i][first // block_size : -(-end // block_size)]
        if num_blocks + len(own) > most_blocks and sequences:
            yield _Group(blocks, sequences)
            blocks, sequences, num_blocks = [], [], 0
        num_blocks += len(own)
        in_place = not isinstance(cache, Int8Cache) and _in_a_row(own)
        before = own[0] if in_place else len(blocks)
        moved = (before - first // block_size) * block_size
        keys = slice(first + moved, end + moved)
        sequences.append(_Sequence(queries, end - first, in_place, keys))
        if not in_place:
            blocks += own
    yield _Group(blocks, sequences)


def _in_a_row(blocks: tuple[int, ...]) -> bool:
    return blocks == tuple(range(blocks[0], blocks[0] + len(blocks)))


def _attend_one(q: Array, k: Array, v: Array, scale: float, *, out: Array) -> None:
    """One query, q [num_heads, head_dim], over all of k [num_keys, num_kv_heads, head_dim].

    A head's scores are a matrix-vector product, and so is what it takes of the values, but where
    OpenBLAS has its kernels for AVX-512: on Zen 4 one product for the 2 to 8 heads of a KV head
    takes half the time of theirs. With the kernels for AVX2 it takes longer for 2 or 3 heads, and
    of the scores it does so in any case for more than some 256 keys.
    """
    num_kv_heads, head_dim = k.shape[1:]
    q = (q * np.float32(scale)).reshape(num_kv_heads, -1, 1, head_dim)
    weights, sums = _exponentials(q @ k.transpose(1, 2, 0)[:, None])
    weights = _for_values(weights)
    out = out.reshape(*weights.shape[:-1], head_dim)
    np.matmul(weights, v.transpose(1, 0, 2)[:, None], out=out)
    out /= sums.reshape(*weights.shape[:-1], 1)


def _attend_one_each(
    q: Array, sources: _Sources, group: _Group, scale: float, *, out: Array
) -> None:
    """`_attend_one` for the decodes of a group; q and out [num_queries, num_heads, head_dim].

    They share all but the products: 16 of SmolLM2's, copies out of the cache included, took 1.6
    times as long one after the other on Zen 3.
    """
    num_kv_heads, head_dim = sources[False][0].shape[1:]
    q = q[group.decode_rows] * np.float32(scale)
    q = q.reshape(len(group.decodes), num_kv_heads, -1, 1, head_dim)
    keys_and_values = {
        in_place: (k.transpose(1, 2, 0)[:, None], v.transpose(1, 0, 2)[:, None])
        for in_place, (k, v) in sources.items()
    }
    max_keys = max(decode.num_keys for decode in group.decodes)
    scores = np.empty((*q.shape[:-1], max_keys), np.float32)
    for i, decode in enumerate(group.decodes):
        k = keys_and_values[decode.in_place][0][..., decode.keys]
        np.matmul(q[i], k, out=scores[i, ..., : decode.num_keys])
        scores[i, ..., decode.num_keys :] = -np.inf
    weights, sums = _exponentials(scores)
    weights = _for_values(weights)
    attended = np.empty((*weights.shape[:-1], head_dim), np.float32)
    for i, decode in enumerate(group.decodes):
        v = keys_and_values[decode.in_place][1][:, :, decode.keys]
        np.matmul(weights[i, ..., : decode.num_keys], v, out=attended[i])
    attended /= sums.reshape(*weights.shape[:-1], 1)
    out[group.decode_rows] = attended.reshape(len(group.decodes), -1, head_dim)


def _for_values(weights: Array) -> Array:
    """Weights [..., group, 1, num_keys] as [..., 1, group, num_keys] where that is one product."""
    return weights.swapaxes(-3, -2) if blas_uses_avx512() else weights


def _attend(q: Array, k: Array, v: Array, scale: float, window: int | None, *, out: Array) -> None:
    """The queries of the last positions, q [num_queries, num_heads, head_dim], tile by tile."""
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads, _ = k.shape
    # [num_kv_heads, group, num_queries, head_dim]: one product serves a KV head's queries.
    grouped = (num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim)
    q = q.reshape(grouped).transpose(1, 2, 0, 3) * np.float32(scale)
    out = out.reshape(grouped).transpose(1, 2, 0, 3)
    k, v = k.transpose(1, 2, 0), v.transpose(1, 0, 2)
    tile = max(1, min(_MAX_TILE_QUERIES, _MAX_TILE_SCORES // (num_keys * num_heads)))
    for first in range(0, num_queries, tile):
        rows = slice(first, min(first + tile, num_queries))
        keys = _seen_keys(num_keys - num_queries, rows, window)
        part = q[:, :, rows]
        scores = part.reshape(num_kv_heads, -1, head_dim) @ k[:, :, keys]
        _hide(scores.reshape(*part.shape[:3], -1), window)
        weights, sums = _exponentials(scores)
        attended = weights @ v[:, keys]
        attended /= sums[..., None]
        out[:, :, rows] = attended.reshape(part.shape)


def _seen_keys(position: int, rows: slice, window: int | None) -> slice:
    """The keys that any of the queries sees; query 0 stands at `position`."""
    start = 0 if window is None else max(0, position + rows.start - window + 1)
    return slice(start, position + rows.stop)


def _exponentials(scores: Array) -> tuple[Array, Array]:
    """The weights of a softmax along the last axis, in the place of the scores, and their sums.

    What is summed with them is divided by the sums at the end, since it is smaller than the
    weights. A product with ones takes a quarter of the time that np.add.reduce takes along rows.
    """
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    return weights, weights @ _ones(scores.shape[-1])


def _hide(scores: Array, window: int | None) -> None:
    """Mask what the queries do not see: [..., num_queries, num_keys], the last query at the end."""
    num_queries, num_keys = scores.shape[-2:]
    # Without a window, all queries see the keys before the first one's.
    first = num_keys - num_queries if window is None else 0
    scores[..., first:] += _mask(num_queries, num_keys - first, window)


@lru_cache(maxsize=8)
def _mask(num_queries: int, num_keys: int, window: int | None) -> Array:
    """-inf where the last positions' queries do not see a key, 0 where they do."""
    hidden = unseen(num_queries, num_keys, num_keys - num_queries, window)
    return np.where(hidden, np.float32(-np.inf), np.float32(0))


@lru_cache(maxsize=8)
def _ones(size: int) -> Array:
    return np.ones(size, np.float32)


def unseen(num_queries: int, num_keys: int, position: int, window: int | None) -> Array:
    """Which keys a query at position, position + 1, ... does not see: [num_queries, num_keys]."""
    keys = np.arange(num_keys)
    queries = np.arange(position, position + num_queries)[:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return hidden
