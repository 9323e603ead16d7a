"""Every backend in every dtype, for tests that hold all of them to one reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.numpy_ops import DTYPES
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

Array = Any

# The largest error of a row, relative to its norm. Measured on NumPy and on CUDA-on-CPU: at most
# 7e-7, 7e-4 and 4e-3; the last two are the rounding of the result.
TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}

DEVICE_BACKENDS = [
    pytest.param((device, dtype), id=f"{device}-{dtype}", marks=marks)
    for device, marks in (("cpu_device", ()), ("cuda", pytest.mark.gpu))
    for dtype in DTYPES
]
# GPUs without the tensor cores that prefill uses for 16-bit types.
OLD_DEVICE_BACKENDS = [
    pytest.param(("cpu_device_sm75", dtype), id=f"cpu_device-{dtype}-sm_75")
    for dtype in DTYPES
    if dtype != "float32"
]
BACKENDS = [
    *(pytest.param(("cpu", dtype), id=f"numpy-{dtype}") for dtype in DTYPES),
    *DEVICE_BACKENDS,
]


def make_ops(backend: tuple[str, str]) -> Any:
    """The ops of (device, dtype); skips the test where the device is not to be had."""
    try:
        return _cached_ops(*backend)
    except (BackendUnavailable, NoCompiler) as reason:
        return pytest.skip(str(reason))


@cache
def _cached_ops(device: str, dtype: str) -> Any:
    if device.startswith("cpu_device"):
        find_compiler()
        arch = 75 if device == "cpu_device_sm75" else 80
        return CudaOps(CpuDevice(arch=arch), DTYPES[dtype])
    return get_ops(device, dtype)[0]


def make_cpu_ops(dtype: str, **options: Any) -> Any:
    """Ops over a CPU device of the test's own; skips the test where there is no compiler."""
    try:
        find_compiler()
    except NoCompiler as reason:
        return pytest.skip(str(reason))
    return CudaOps(CpuDevice(**options), DTYPES[dtype])


def normal(ops: Any, rng: np.random.Generator, *shape: int) -> Array:
    """Normal draws that the dtype of the ops can hold, as float64."""
    return rng.standard_normal(shape).astype(ops.dtype).astype(np.float64)


def put(ops: Any, x: Array) -> Array:
    """A device copy of values, in the storage type of the ops."""
    return ops.upload(x.astype(ops.storage_dtype))


def put_as(ops: Any, x: Any, dtype: type = np.int32) -> Array:
    """A device copy of values, in a given type."""
    return ops.upload(np.array(x, dtype))


def huge(ops: Any, *shape: int) -> Array:
    """An array of the storage type of the ops, of any size; skips the test where it does not fit.

    On CUDA-on-CPU it holds zeros and takes memory only where it is touched, else it is not filled.
    """
    allocate = getattr(ops.device, "sparse", ops.device.empty)
    try:
        return allocate(shape, ops.storage_dtype)
    except MemoryError as reason:
        return pytest.skip(str(reason))


def got(ops: Any, array: Array) -> Array:
    """The device array as float64, or as integers."""
    host = np.array(ops.download(array))
    return host if host.dtype.kind in "iu" else host.astype(np.float64)


def row_error(result: Array, want: Array) -> float:
    """The largest error of a row of the last axis, relative to the row's norm."""
    norm = np.linalg.norm(want, axis=-1)
    assert result.shape == want.shape and norm.min() > 0
    return float((np.linalg.norm(result - want, axis=-1) / norm).max())


def assert_close(ops: Any, result: Array, want: Array, times: float = 1) -> None:
    """Every row is within the tolerance of the dtype, or within so many times of it."""
    error = row_error(got(ops, result), want)
    assert error < times * TOLERANCE[ops.dtype.name], f"relative error of a row: {error:.2e}"


def assert_rows_close(ops: Any, result: Array, want: Array) -> None:
    """`assert_close` of an array whose rows are apart: a device gives contiguous arrays only."""
    assert len(result) == len(want)
    for row, wanted in zip(result, want, strict=True):
        assert_close(ops, row, wanted)
