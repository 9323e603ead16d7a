"""Attention on CUDA by our tiled kernels, kernels/attention_*.cu."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cu.batch import Batch
from llama_cu.ops.cuda_heads import check_caches
from llama_cu.ops.cuda_launch import (
    MAX_GRID_YZ,
    ceil_div,
    check,
    check_array,
    launch,
    token_stride,
    whole_warps,
)
from llama_cu.ops.cuda_templates import C_TYPES, DECODE_MMA, PREFILL_MMA

if TYPE_CHECKING:
    from llama_cu.ops.cuda_ops import CudaOps

Array = Any

MAX_FUSED_HEAD_DIM = 256

# As in the attention_*.cu.
_TILE_ROWS = 32
_MMA_WIDE = (128, 64)  # rows and keys of a tile, up to this head size
_MMA_WIDE_HEAD_DIM = 128
_MMA_NARROW = (64, 32)
_MMA_DECODE_THREADS = 256
_PARTITION = 256
_NUM_THREADS = 128
_DECODE_ROWS = (1, 2, 4, 8)

# K and V, then the scales of both, None where there are none.
_Caches = tuple[Array, Array, Array | None, Array | None]

_INT32 = np.dtype(np.int32)
_FLOAT32 = np.dtype(np.float32)
NO_WINDOW = np.int32(2**31 - 1)

# In elements, to bound memory: the partitions' sums of sequences decoded by one launch.
_MAX_PARTIALS = 1 << 26


def fuses_attention(head_dim: int) -> bool:
    """Whether our own kernels attend with heads of this size; they need no host to read lengths."""
    return head_dim % 8 == 0 and head_dim <= MAX_FUSED_HEAD_DIM


def fused_attention(
    ops: CudaOps,
    q: Array,
    *,
    k_cache: Array,
    v_cache: Array,
    batch: Batch,
    scale: float,
    window: int | None,
) -> Array:
    """`Ops.attention` for head_dim a multiple of 8 up to 256; kernels/attention_*.cu."""
    values, scales = check_attention(
        ops, q, k_cache=k_cache, v_cache=v_cache, batch=batch, window=window
    )
    num_tokens, num_heads, head_dim = q.shape
    fits = fuses_attention(head_dim)
    check(fits, "fused attention: head_dim must be a multiple of 8 up to 256, got {}", head_dim)
    check(scale > 0, "attention: scale must be positive, got {}", scale)
    stride = token_stride("attention: q", q, dtype=ops.dtype)
    check(stride % 8 == 0, "attention: token stride of q must be a multiple of 8, got {}", stride)
    out = ops.empty((num_tokens, num_heads * head_dim))
    caches = (*values, *scales)
    arrays = (batch.block_tables, batch.cu_seqlens_q, batch.context_lens)
    last = (np.int64(stride), np.float32(scale), NO_WINDOW if window is None else np.int32(window))
    if batch.max_query_len > 1:
        _launch_prefill(ops, q, caches, arrays, out, last=last)
    if 1 in batch.query_lens:
        lens = zip(batch.query_lens, batch.host_context_lens, strict=True)
        longest = max(context_len for query_len, context_len in lens if query_len == 1)
        num_partitions = ceil_div(longest, _PARTITION)
        for seqs in _decoded_together(batch.num_seqs, num_partitions * num_heads * head_dim):
            options: dict[str, Any] = {"seqs": seqs, "num_partitions": num_partitions}
            _launch_decode(ops, q, caches, arrays, out, last=last, **options)
    return out


def _launch_prefill(
    ops: CudaOps,
    q: Array,
    caches: _Caches,
    arrays: tuple[Array, Array, Array],
    out: Array,
    *,
    last: tuple[Any, ...],
) -> None:
    num_seqs, max_blocks = arrays[0].shape
    num_tokens, num_heads, head_dim = q.shape
    block_size, num_kv_heads = caches[0].shape[1:3]
    group = num_heads // num_kv_heads
    shared_bytes = mma_shared_bytes(head_dim) if uses_mma(ops, head_dim) else 0
    name = "attention_prefill_mma" if shared_bytes else "attention_prefill"
    tile_rows = mma_tile(head_dim)[0] if shared_bytes else _TILE_ROWS
    kernel = ops.device.kernel(name, name, C_TYPES[ops.dtype.name], head_dim, _in_8_bits(caches))
    sizes = (num_seqs, max_blocks, block_size, group)
    grid = (num_tokens * group // tile_rows + num_seqs, num_kv_heads)
    args = (q, *caches, *arrays, out, *map(np.int32, sizes), *last)
    launch(kernel, grid, _NUM_THREADS, *args, shared_bytes=shared_bytes)


def mma_tile(head_dim: int) -> tuple[int, int]:
    """Query rows and keys of a tile of attention_prefill_mma.cu."""
    return _MMA_WIDE if head_dim <= _MMA_WIDE_HEAD_DIM else _MMA_NARROW


def mma_shared_bytes(head_dim: int) -> int:
    """Its dynamic shared memory: the rows, and the keys of k and of v, an odd number of 16-byte
    vectors apart.
    """
    rows, keys = mma_tile(head_dim)
    return (rows + 2 * keys) * 16 * (head_dim // 8 | 1)


def uses_mma(ops: CudaOps, head_dim: int) -> bool:
    """Whether prefill attends on tensor cores: by element type, head size and device."""
    return PREFILL_MMA.serves(ops.device.arch, C_TYPES[ops.dtype.name], head_dim)


def decodes_by_mma(ops: CudaOps, head_dim: int) -> bool:
    """Whether decode attends on tensor cores: by element type, head size and device."""
    return DECODE_MMA.serves(ops.device.arch, C_TYPES[ops.dtype.name], head_dim)


def _decoded_together(num_seqs: int, sums_per_seq: int) -> Iterator[range]:
    """The sequences of each launch: all of them, unless memory or the grid forbids it.

    No result depends on it, because the partitions of a sequence are its own.
    """
    step = max(1, min(_MAX_PARTIALS // sums_per_seq, MAX_GRID_YZ))
    for first in range(0, num_seqs, step):
        yield range(first, min(first + step, num_seqs))


def _launch_decode(
    ops: CudaOps,
    q: Array,
    caches: _Caches,
    arrays: tuple[Array, Array, Array],
    out: Array,
    *,
    seqs: range,
    last: tuple[Any, ...],
    num_partitions: int,
) -> None:
    block_tables, cu_seqlens_q, context_lens = arrays
    _, num_heads, head_dim = q.shape
    block_size, num_kv_heads = caches[0].shape[1:3]
    num_seqs, max_blocks = len(seqs), block_tables.shape[1]
    if num_seqs < block_tables.shape[0]:
        block_tables = block_tables[seqs.start : seqs.stop]
        cu_seqlens_q = cu_seqlens_q[seqs.start : seqs.stop + 1]
        context_lens = context_lens[seqs.start : seqs.stop]
    args = (q, *caches, block_tables, cu_seqlens_q, context_lens, out)
    group = num_heads // num_kv_heads
    c_type, in_8_bits = C_TYPES[ops.dtype.name], _in_8_bits(caches)
    form: tuple[str | int, ...]
    if decodes_by_mma(ops, head_dim):
        rows, threads = _DECODE_ROWS[-1], _MMA_DECODE_THREADS
        file, form = "attention_decode_mma", (c_type, head_dim, in_8_bits)
    else:
        rows = next((rows for rows in _DECODE_ROWS if rows >= group), _DECODE_ROWS[-1])
        threads = _NUM_THREADS
        file, form = "attention_decode", (c_type, head_dim, rows, in_8_bits)
    partials = (num_seqs, num_heads, num_partitions)
    partial_out = ops.device.empty((*partials, head_dim), _FLOAT32)
    partial_softmax = ops.device.empty((*partials, 2), _FLOAT32)
    kernel = ops.device.kernel(file, file, *form)
    sizes = map(np.int32, (max_blocks, block_size, num_kv_heads, group))
    grid = (num_partitions, num_kv_heads * ceil_div(group, rows), num_seqs)
    launch(kernel, grid, threads, *args, partial_out, partial_softmax, *sizes, *last)
    if num_partitions > 1:
        merge = ops.device.kernel("attention_decode", "attention_merge", c_type)
        merged = (partial_out, partial_softmax, cu_seqlens_q, context_lens, out)
        counts = (np.int32(num_partitions), np.int32(head_dim), last[-1])
        launch(merge, (num_heads, num_seqs), whole_warps(head_dim), *merged, *counts)


def _in_8_bits(caches: _Caches) -> int:
    return int(caches[2] is not None)


def check_attention(
    ops: CudaOps, q: Array, *, k_cache: Array, v_cache: Array, batch: Batch, window: int | None
) -> tuple[tuple[Array, Array], tuple[Array | None, Array | None]]:
    """What the caches hold, and their scales; ValueError for what does not fit together."""
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = k_cache.shape[2]
    divides = num_heads % num_kv_heads == 0
    check(divides, "attention: {} query heads for {} KV heads", num_heads, num_kv_heads)
    caches = check_caches("attention", (k_cache, v_cache), head_dim=head_dim, dtype=ops.dtype)
    num_seqs = batch.num_seqs
    tables = (num_seqs, batch.block_tables.shape[1])
    check_array("attention: block_tables", batch.block_tables, shape=tables, dtype=_INT32)
    check_array("attention: cu_seqlens_q", batch.cu_seqlens_q, shape=(num_seqs + 1,), dtype=_INT32)
    check_array("attention: context_lens", batch.context_lens, shape=(num_seqs,), dtype=_INT32)
    total = sum(batch.query_lens)
    check(total == q.shape[0], "attention: {} queries, the batch has {}", q.shape[0], total)
    check(window is None or window > 0, "attention: window must be at least 1, got {}", window)
    fits = batch.max_context_len <= batch.block_tables.shape[1] * k_cache.shape[1]
    check(fits, "attention: context {} exceeds the block table", batch.max_context_len)
    return caches
