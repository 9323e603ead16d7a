"""Attention on CUDA for any head_dim: cuBLAS products around kernels/softmax.cu."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cu.batch import Batch
from llama_cu.ops.cuda_attention import NO_WINDOW, check_attention
from llama_cu.ops.cuda_heads import launch_gather_int8
from llama_cu.ops.cuda_launch import ceil_div, check, check_array, launch, token_stride
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.int8_cache import Int8Cache

if TYPE_CHECKING:
    from llama_cu.ops.cuda_ops import CudaOps

Array = Any

_FLOAT32 = np.dtype(np.float32)

# In elements, to bound memory: the scores of one tile of queries.
_MAX_SCORES = 1 << 24


def masked_softmax(ops: CudaOps, scores: Array, *, position: int, window: int | None) -> Array:
    """`Ops.softmax`; kernels/softmax.cu."""
    num_heads, num_queries, row_size = scores.shape
    check_array("softmax: scores", scores, shape=scores.shape, dtype=_FLOAT32)
    fits = row_size % 4 == 0 and row_size >= position + num_queries
    check(fits, "softmax: row of {} for queries up to {}", row_size, position + num_queries)
    check(window is None or window > 0, "softmax: window must be at least 1, got {}", window)
    out = ops.empty(scores.shape)
    kernel = ops.device.kernel("softmax", "softmax", C_TYPES[ops.dtype.name])
    sizes = (np.int32(num_queries), np.int32(row_size), np.int32(position))
    limit = NO_WINDOW if window is None else np.int32(window)
    launch(kernel, (num_heads * num_queries,), 256, scores, out, *sizes, limit)
    return out


def unfused_attention(
    ops: CudaOps,
    q: Array,
    *,
    k_cache: Array,
    v_cache: Array,
    batch: Batch,
    scale: float,
    window: int | None,
) -> Array:
    """`Ops.attention` for any head_dim: gather, product, kernels/softmax.cu, product."""
    check_attention(ops, q, k_cache=k_cache, v_cache=v_cache, batch=batch, window=window)
    token_stride("attention: q", q, dtype=ops.dtype)
    num_tokens, num_heads, head_dim = q.shape
    out = ops.empty((num_tokens, num_heads * head_dim))
    heads_out = out.reshape(num_tokens, num_heads, head_dim)
    start = 0
    for i, query_len in enumerate(batch.query_lens):
        if query_len == 0:
            continue
        context_len = batch.host_context_lens[i]
        blocks = batch.block_tables[i, : len(batch.host_block_tables[i])]
        k = _gathered(ops, k_cache, blocks=blocks, context_len=context_len)
        v = _gathered(ops, v_cache, blocks=blocks, context_len=context_len)
        tile = max(1, _MAX_SCORES // (context_len * num_heads))
        for first in range(0, query_len, tile):
            rows = slice(start + first, start + min(first + tile, query_len))
            position = context_len - query_len + first
            _attend(
                ops,
                q[rows],
                k,
                v,
                heads_out[rows],
                position=position,
                scale=scale,
                window=window,
            )
        start += query_len
    return out


def _gathered(ops: CudaOps, cache: Array, *, blocks: Array, context_len: int) -> Array:
    """A sequence's K or V, contiguous: [num_kv_heads, context_len, head_dim], a transposed view."""
    if isinstance(cache, Int8Cache):
        rows = launch_gather_int8(ops.device, cache, blocks=blocks, dtype=ops.dtype)
    else:
        rows = ops.gather(cache.reshape(cache.shape[0], -1), blocks)
    return rows.reshape(-1, *cache.shape[2:])[:context_len].transpose(1, 0, 2)


def _attend(
    ops: CudaOps,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    *,
    position: int,
    scale: float,
    window: int | None,
) -> None:
    """Queries at position, position + 1, ...; the heads of a group one after another."""
    num_queries, num_heads, _ = q.shape
    num_kv_heads, num_keys, _ = k.shape
    group = num_heads // num_kv_heads
    row_size = ceil_div(num_keys, 8) * 8  # whole vectors in every dtype
    shape = (group, num_kv_heads, num_queries, row_size)
    scores = ops.device.empty(shape, _FLOAT32)
    for member in range(group):
        q_heads = q[:, member::group].transpose(1, 0, 2)
        ops.device.gemm(q_heads, k, scores[member][..., :num_keys], alpha=scale)
    # Key positions behind the last are hidden from all: what pads a row is never read.
    weights = ops.softmax(scores.reshape(num_heads, num_queries, row_size), position, window)
    weights = weights.reshape(shape)
    for member in range(group):
        target = out[:, member::group].transpose(1, 0, 2)
        ops.device.gemm(weights[member][..., :num_keys], v, target, transpose_b=False)
