"""Launches for the heads of q, k and v on their way from product to cache: norm, RoPE, storing."""

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
    whole_warps,
)
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.device import Device

Array = Any

_THREADS = 128
_INT32, _FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


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
    for name, array, shape, dtype in (
        ("cos_sin", cos_sin, (num_tokens, head_dim), _FLOAT32),
        ("k_cache", k_cache, cache_shape, qkv.dtype),
        ("v_cache", v_cache, cache_shape, qkv.dtype),
        ("slot_mapping", slot_mapping, (num_tokens,), _INT32),
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


def launch_head_norm(device: Device, x: Array, *, weight: Array, eps: float) -> None:
    """Queue `Ops.head_norm`."""
    num_tokens, num_heads, head_dim = x.shape
    stride = token_stride("head_norm: x", x, dtype=x.dtype)
    check_array("head_norm: weight", weight, shape=(head_dim,), dtype=x.dtype)
    lanes = vector_lanes(x.dtype, head_dim, stride)
    width = min(32, 1 << (head_dim // lanes - 1).bit_length())
    kernel = device.kernel("rms_norm", "head_norm", C_TYPES[x.dtype.name], lanes)
    sizes = (np.int32(num_tokens), np.int32(num_heads), np.int32(head_dim), np.int64(stride))
    grid = (ceil_div(num_tokens * num_heads, 128 // width),)
    launch(kernel, grid, 128, x, weight, *sizes, np.float32(eps), np.int32(width))


def launch_rope_angles(
    device: Device, inv_freq: Array, *, rope_rows: Array, positions: Array, scaling: float
) -> Array:
    """Queue `Ops.rope_angles`."""
    num_tokens, half_dim = positions.shape[0], inv_freq.shape[1]
    table_shape = (inv_freq.shape[0], half_dim)
    check_array("rope_angles: inv_freq", inv_freq, shape=table_shape, dtype=_FLOAT32)
    check_array("rope_angles: rope_rows", rope_rows, shape=(num_tokens,), dtype=_INT32)
    check_array("rope_angles: positions", positions, shape=(num_tokens,), dtype=_INT32)
    out = device.empty((num_tokens, 2 * half_dim), _FLOAT32)
    sizes = (np.int32(half_dim), np.float32(scaling))
    kernel = device.kernel("rope", "rope_angles")
    block = whole_warps(half_dim, high=128)
    launch(kernel, (num_tokens,), block, inv_freq, rope_rows, positions, out, *sizes)
    return out


def launch_rope(device: Device, x: Array, *, cos_sin: Array) -> None:
    """Queue `Ops.rope`."""
    num_tokens, num_heads, head_dim = x.shape
    stride = token_stride("rope: x", x, dtype=x.dtype)
    check(head_dim % 2 == 0, "rope: head_dim must be even, got {}", head_dim)
    check_array("rope: cos_sin", cos_sin, shape=(num_tokens, head_dim), dtype=_FLOAT32)
    lanes = vector_lanes(x.dtype, head_dim // 2, stride)
    kernel = device.kernel("rope", "rope", C_TYPES[x.dtype.name], lanes)
    sizes = (np.int32(num_heads), np.int32(head_dim // 2), np.int64(stride))
    block = whole_warps(num_heads * head_dim // 2 // lanes, high=256)
    launch(kernel, (num_tokens,), block, x, cos_sin, *sizes)


def launch_store_kv(
    device: Device, k: Array, v: Array, *, caches: tuple[Array, Array], slot_mapping: Array
) -> None:
    """Queue `Ops.store_kv`, with the caches of k and v."""
    num_tokens, num_kv_heads, head_dim = k.shape
    k_cache, v_cache = caches
    stride = token_stride("store_kv: k", k, dtype=k.dtype)
    same = token_stride("store_kv: v", v, dtype=k.dtype) == stride and v.shape == k.shape
    check(same, "store_kv: k {} {} and v {} {} differ", k.shape, k.strides, v.shape, v.strides)
    cache_shape = (*k_cache.shape[:2], num_kv_heads, head_dim)
    check_array("store_kv: k_cache", k_cache, shape=cache_shape, dtype=k.dtype)
    check_array("store_kv: v_cache", v_cache, shape=cache_shape, dtype=k.dtype)
    check_array("store_kv: slot_mapping", slot_mapping, shape=(num_tokens,), dtype=_INT32)
    width = num_kv_heads * head_dim
    lanes = vector_lanes(k.dtype, head_dim, stride)
    kernel = device.kernel("kv_cache", "store_kv", C_TYPES[k.dtype.name], lanes)
    sizes = (np.int32(width), np.int64(stride))
    block = whole_warps(width // lanes, high=256)
    launch(kernel, (num_tokens,), block, k, v, k_cache, v_cache, slot_mapping, *sizes)
