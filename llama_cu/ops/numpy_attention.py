"""Attention over the paged cache, in NumPy: every sequence alone, its queries in tiles."""

from __future__ import annotations

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


# BLAS computes more than it was asked for, from what its buffers held before. That never reaches a
# result, but it can look like an invalid operation to NumPy, which warns.
@np.errstate(invalid="ignore")
def attention(
    q: Array, k_cache: Array, v_cache: Array, batch: Batch, *, scale: float, window: int | None
) -> Array:
    """`Ops.attention` in the shape of q, not rounded."""
    out = np.empty(q.shape, np.float32)
    start = 0
    for i, query_len in enumerate(batch.query_lens):
        blocks = batch.block_slices[i] or list(batch.host_block_tables[i])
        context_len = batch.host_context_lens[i]
        k = _rows(k_cache, blocks)[:context_len]
        v = _rows(v_cache, blocks)[:context_len]
        if query_len == 1:
            _attend_one(q[start], k, v, scale, window, out=out[start])
        else:
            rows = slice(start, start + query_len)
            _attend(q[rows], k, v, scale, window, out=out[rows])
        start += query_len
    return out


def _rows(cache: Array | Int8Cache, blocks: slice | list[int]) -> Array:
    """The cached K or V of some blocks, token by token: [num_tokens, num_kv_heads, head_dim]."""
    if isinstance(cache, Int8Cache):
        scales = cache.scales[blocks].transpose(0, 2, 1)[..., None]
        return (cache.values[blocks] * scales).reshape(-1, *cache.shape[2:])
    return cache[blocks].reshape(-1, *cache.shape[2:])


def _attend_one(
    q: Array, k: Array, v: Array, scale: float, window: int | None, *, out: Array
) -> None:
    """The query of the last position, q [num_heads, head_dim], over the keys that it sees.

    A head's scores are a matrix-vector product, and so is what it takes of the values, but where
    OpenBLAS has its kernels for AVX-512: on Zen 4 one product for the 2 to 8 heads of a KV head
    takes half the time of theirs. With the kernels for AVX2 it takes longer for 2 or 3 heads, and
    of the scores it does so in any case for more than some 256 keys.
    """
    if window is not None:
        k, v = k[-window:], v[-window:]
    num_kv_heads, head_dim = k.shape[1:]
    q = (q * np.float32(scale)).reshape(num_kv_heads, -1, 1, head_dim)
    scores = q @ k.transpose(1, 2, 0)[:, None]  # [num_kv_heads, group, 1, num_keys]
    v = v.transpose(1, 0, 2)
    if blas_uses_avx512():
        _attended(scores[:, :, 0], v, out=out.reshape(num_kv_heads, -1, head_dim))
    else:
        _attended(scores, v[:, None], out=out.reshape(q.shape))


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
        attended = np.empty((*scores.shape[:2], head_dim), np.float32)
        _attended(scores, v[:, keys], out=attended)
        out[:, :, rows] = attended.reshape(part.shape)


def _seen_keys(position: int, rows: slice, window: int | None) -> slice:
    """The keys that any of the queries sees; query 0 stands at `position`."""
    start = 0 if window is None else max(0, position + rows.start - window + 1)
    return slice(start, position + rows.stop)


def _attended(scores: Array, v: Array, *, out: Array) -> None:
    """softmax(scores) v; changes the scores.

    The sum is divided by at the end, since the result is smaller than the weights, and a product
    with ones takes a quarter of the time that np.add.reduce takes along rows.
    """
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    np.matmul(weights, v, out=out)
    out /= (weights @ _ones(scores.shape[-1]))[..., None]


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
