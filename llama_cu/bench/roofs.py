"""How fast this device reads memory and multiplies: the roofs that a model is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_launch import launch

Array = Any

_READ_BYTES = 2 << 30  # far more than any cache holds
_GEMM_SIZE = 8192
_CPU_READ_BYTES = 256 << 20
_CPU_GEMM_SIZE = 1536
_SAMPLES = 5
_SAMPLE_S = 0.02  # what is waited for once, so that the waiting does not count
_READ_THREADS = 512
_READ_BLOCKS = 4  # of so many threads fill a multiprocessor


@dataclass(frozen=True)
class Roofs:
    """The best of some samples each: what the device can reach, not what it does on average."""

    read_bytes_per_s: float
    gemm_flops_per_s: float
    read_bytes: int
    gemm_size: int


def measure_roofs(
    ops: Ops, *, read_bytes: int | None = None, gemm_size: int | None = None
) -> Roofs:
    """Read `read_bytes` and multiply square matrices of `gemm_size` rows in the dtype of the ops.

    Without sizes: 2 GiB and 8192 on a GPU, less where memory is short or there is none.
    """
    on_cpu = ops.device is None
    free = ops.free_memory()
    if read_bytes is None:
        read_bytes = min(_CPU_READ_BYTES if on_cpu else _READ_BYTES, free // 4)
    if gemm_size is None:
        gemm_size = _CPU_GEMM_SIZE if on_cpu else _GEMM_SIZE
        while 3 * gemm_size**2 * ops.storage_dtype.itemsize > free // 4:
            gemm_size //= 2
    read_bytes -= read_bytes % 16
    read_s = _best_s(ops, _reader(ops, read_bytes))
    gemm_s = _best_s(ops, _multiplier(ops, gemm_size))
    return Roofs(read_bytes / read_s, 2 * gemm_size**3 / gemm_s, read_bytes, gemm_size)


def read_sums(ops: Ops, data: Array) -> Array:
    """Sums modulo 2^32 of the words that each block read: uint32 [num_blocks]; a CUDA backend.

    data is uint32, of a multiple of four words; kernels/bandwidth.cu.
    """
    device = ops.device
    assert device is not None
    num_vecs = data.size // 4
    num_blocks = device.num_multiprocessors * _READ_BLOCKS
    out = device.empty((num_blocks,), np.dtype(np.uint32))
    kernel = device.kernel("bandwidth", "read_sum")
    launch(kernel, (num_blocks,), _READ_THREADS, data, out, np.int64(num_vecs))
    return out


def _reader(ops: Ops, num_bytes: int) -> Callable[[], object]:
    """Reads an array of so many bytes once, by all threads that the backend has."""
    if ops.device is not None:
        data = ops.device.empty((num_bytes // 4,), np.dtype(np.uint32))
        return lambda: read_sums(ops, data)
    matrix = np.ones((num_bytes // 4 // 4096, 4096), np.float32)
    vector = np.ones(4096, np.float32)
    return lambda: matrix @ vector


def _multiplier(ops: Ops, size: int) -> Callable[[], object]:
    shape, scale = (size, size), size**-0.5
    a = ops.random_weight(shape, seed=1, scale=scale)
    b = ops.random_weight(shape, seed=2, scale=scale)
    device = ops.device
    if device is None:
        return lambda: a @ b
    out = ops.empty(shape)
    return lambda: device.gemm(a, b, out)


def _best_s(ops: Ops, work: Callable[[], object]) -> float:
    """Seconds of one call, in the best of some samples of many calls."""
    work()  # compiles
    once = _elapsed_s(ops, work, 1)
    calls = max(1, round(_SAMPLE_S / once)) if once > 0 else 1
    return min(_elapsed_s(ops, work, calls) for _ in range(_SAMPLES)) / calls


def _elapsed_s(ops: Ops, work: Callable[[], object], calls: int) -> float:
    ops.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    ops.synchronize()
    return time.perf_counter() - started
