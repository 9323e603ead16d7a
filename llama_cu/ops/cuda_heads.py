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
from llama_cu.ops.int8_cache import Int8Cache, scales_shape

Array = Any

_THREADS = 128
_INT8, _INT32, _FLOAT32 = map(np.dtype, (np.int8, np.int32, np.float32))


def launch_rotate_and_store(
    device: Device,
    qkv: Array,
    *,
    cos_sin: Array,
    caches: tuple[Array | Int8Cache, Array | Int8Cache],
    slot_mapping: Array,
    head_norms: HeadNorms | None,
) -> None:
    """Queue `Ops.rotate_and_store`, with the caches of k and v; ValueError for what cannot fit."""
    stride = token_stride("rotate_and_store: qkv", qkv, dtype=qkv.dtype)
    num_tokens, all_heads, head_dim = qkv.shape
    _, block_size, num_kv_heads, _ = caches[0].shape
    num_heads = all_heads - 2 * num_kv_heads
    check(head_dim % 2 == 0, "rotate_and_store: head_dim must be even, got {}", head_dim)
    check(num_heads > 0, "rotate_and_store: {} heads hold no q", all_heads)
    for name, array, shape, dtype in (
        ("cos_sin", cos_sin, (num_tokens, head_dim), _FLOAT32),
        ("slot_mapping", slot_mapping, (num_tokens,), _INT32),
    ):
        check_array(f"rotate_and_store: {name}", array, shape=shape, dtype=dtype)
    values, scales = check_caches("rotate_and_store", caches, head_dim=head_dim, dtype=qkv.dtype)
    norms = (None, None) if head_norms is None else (head_norms.q_weight, head_norms.k_weight)
    for name, weight in zip(("q", "k"), norms, strict=True):
        if weight is not None:
            shape = (head_dim,)
            check_array(f"rotate_and_store: {name} norm", weight, shape=shape, dtype=qkv.dtype)
    lanes = vector_lanes(qkv.dtype, head_dim // 2, stride)
    width = min(32, 1 << (head_dim // 2 // lanes - 1).bit_length())
    flags = (int(head_norms is not None), int(scales[0] is not None))
    c_type = C_TYPES[qkv.dtype.name]
    kernel = device.kernel("rotate_and_store", "rotate_and_store", c_type, lanes, *flags)
    sizes = map(np.int32, (num_heads, num_kv_heads, head_dim // 2, block_size))
    eps = np.float32(0 if head_norms is None else head_norms.eps)
    arrays = (qkv, cos_sin, *norms, *values, *scales, slot_mapping)
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
    device: Device,
    k: Array,
    v: Array,
    *,
    caches: tuple[Array | Int8Cache, Array | Int8Cache],
    slot_mapping: Array,
) -> None:
    """Queue `Ops.store_kv`, with the caches of k and v."""
    num_tokens, num_kv_heads, head_dim = k.shape
    stride = token_stride("store_kv: k", k, dtype=k.dtype)
    same = token_stride("store_kv: v", v, dtype=k.dtype) == stride and v.shape == k.shape
    check(same, "store_kv: k {} {} and v {} {} differ", k.shape, k.strides, v.shape, v.strides)
    values, scales = check_caches("store_kv", caches, head_dim=head_dim, dtype=k.dtype)
    fits = caches[0].shape[2] == num_kv_heads
    check(fits, "store_kv: {} KV heads for a cache of {}", num_kv_heads, caches[0].shape[2])
    check_array("store_kv: slot_mapping", slot_mapping, shape=(num_tokens,), dtype=_INT32)
    lanes = vector_lanes(k.dtype, head_dim, stride)
    c_type = C_TYPES[k.dtype.name]
    if scales[0] is None:
        size = num_kv_heads * head_dim
        kernel = device.kernel("kv_cache", "store_kv", c_type, lanes)
        sizes = (np.int32(size), np.int64(stride))
        block = whole_warps(size // lanes, high=256)
        launch(kernel, (num_tokens,), block, k, v, *values, slot_mapping, *sizes)
        return
    kernel = device.kernel("kv_cache", "store_kv_int8", c_type, lanes)
    width = min(32, 1 << (head_dim // lanes - 1).bit_length())
    counts = map(np.int32, (num_kv_heads, head_dim, caches[0].shape[1]))
    args = (k, v, *values, *scales, slot_mapping, *counts, np.int64(stride), np.int32(width))
    grid = (num_tokens, ceil_div(2 * num_kv_heads, _THREADS // width))
    launch(kernel, grid, _THREADS, *args)


def launch_gather_int8(
    device: Device, cache: Int8Cache, *, blocks: Array, dtype: np.dtype[Any]
) -> Array:
    """Queue the expansion of blocks [num_blocks] of a cache: the same shape, of `dtype`."""
    _, block_size, num_kv_heads, head_dim = cache.shape
    num_blocks = len(blocks)
    check_array("gather_int8: blocks", blocks, shape=(num_blocks,), dtype=_INT32)
    out = device.empty((num_blocks, *cache.shape[1:]), dtype)
    lanes = vector_lanes(dtype, head_dim)
    kernel = device.kernel("kv_cache", "gather_int8", C_TYPES[dtype.name], lanes)
    grid = (num_blocks, ceil_div(block_size * num_kv_heads * head_dim // lanes, 256))
    sizes = map(np.int32, (block_size, num_kv_heads, head_dim))
    launch(kernel, grid, 256, cache.values, cache.scales, blocks, out, *sizes)
    return out


def check_caches(
    op: str,
    caches: tuple[Array | Int8Cache, Array | Int8Cache],
    *,
    head_dim: int,
    dtype: np.dtype[Any],
) -> tuple[tuple[Array, Array], tuple[Array | None, Array | None]]:
    """The values of the caches of k and v, and their scales, None where they have none.

    ValueError unless both are alike, and in 8 bits or `dtype`.
    """
    shape = (*caches[0].shape[:3], head_dim)
    values, scales = [], []
    for name, cache in zip(("k_cache", "v_cache"), caches, strict=True):
        alike = isinstance(cache, Int8Cache) == isinstance(caches[0], Int8Cache)
        check(alike, "{}: one of the caches of k and v is in 8 bits, the other is not", op)
        if isinstance(cache, Int8Cache):
            check_array(f"{op}: {name}", cache.values, shape=shape, dtype=_INT8)
            own = scales_shape(shape)
            check_array(f"{op}: {name} scales", cache.scales, shape=own, dtype=_FLOAT32)
            values.append(cache.values)
            scales.append(cache.scales)
        else:
            check_array(f"{op}: {name}", cache, shape=shape, dtype=dtype)
            values.append(cache)
            scales.append(None)
    return (values[0], values[1]), (scales[0], scales[1])
