"""The launch of rotate_and_store.cu, which takes the heads of q, k and v from product to cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.ops.base import HeadNorms
from llama_cu.ops.cuda_launch import (
    ceil_div,
    check,
    check_array,
    launch,
    token_stride,
    vector_lanes,
)
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device

Array = Any

_THREADS = 128


def launch_rotate_and_store(
    device: Device,
    qkv: Array,
    *,
    cos_sin: Array,
    caches: tuple[Array, Array],
    slot_mapping: Array,
    head_norms: HeadNorms | None,
) -> None:
    """Queue `Ops.rotate_and_store`, with the caches of k and v; ValueError for what cannot fit."""
    stride = token_stride("rotate_and_store: qkv", qkv, dtype=qkv.dtype)
    num_tokens, all_heads, head_dim = qkv.shape
    k_cache, v_cache = caches
    num_kv_heads = k_cache.shape[2]
    num_heads = all_heads - 2 * num_kv_heads
    check(head_dim % 2 == 0, "rotate_and_store: head_dim must be even, got {}", head_dim)
    check(num_heads > 0, "rotate_and_store: {} heads hold no q", all_heads)
    cache_shape = (*k_cache.shape[:2], num_kv_heads, head_dim)
    floats, ints = np.dtype(np.float32), np.dtype(np.int32)
    for name, array, shape, dtype in (
        ("cos_sin", cos_sin, (num_tokens, head_dim), floats),
        ("k_cache", k_cache, cache_shape, qkv.dtype),
        ("v_cache", v_cache, cache_shape, qkv.dtype),
        ("slot_mapping", slot_mapping, (num_tokens,), ints),
    ):
        check_array(f"rotate_and_store: {name}", array, shape=shape, dtype=dtype)
    norms = (None, None) if head_norms is None else (head_norms.q_weight, head_norms.k_weight)
    for name, weight in zip(("q", "k"), norms, strict=True):
        if weight is not None:
            shape = (head_dim,)
            check_array(f"rotate_and_store: {name} norm", weight, shape=shape, dtype=qkv.dtype)
    lanes = vector_lanes(qkv.dtype, head_dim // 2, stride)
    width = min(32, 1 << (head_dim // 2 // lanes - 1).bit_length())
    c_type, normed = C_TYPES[qkv.dtype.name], int(head_norms is not None)
    kernel = device.kernel("rotate_and_store", "rotate_and_store", c_type, lanes, normed)
    sizes = (np.int32(num_heads), np.int32(num_kv_heads), np.int32(head_dim // 2))
    eps = np.float32(0 if head_norms is None else head_norms.eps)
    arrays = (qkv, cos_sin, *norms, *caches, slot_mapping)
    grid = (num_tokens, ceil_div(all_heads, _THREADS // width))
    launch(kernel, grid, _THREADS, *arrays, *sizes, np.int64(stride), eps, np.int32(width))
