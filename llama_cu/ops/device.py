"""The seam under the CUDA backend: allocate, copy, compile, launch, multiply.

CuPy fills it on a GPU; `tests/cuda_on_cpu` fills it with the same kernels compiled as C++.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = Any

KernelRequest = tuple[str, str, tuple[str | int, ...]]
"""What `Device.kernel` is asked for: file, name, template arguments."""


class Kernel(Protocol):
    """A compiled kernel."""

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
        *,
        early: bool = True,
    ) -> None:
        """Queue it.

        args are device arrays and NumPy scalars of the exact C width (np.int32, np.float32,
        np.uint64); never a bare int or float. With `early`, a kernel that waits by itself for the
        one ahead may begin before that has ended.
        """


class Event(Protocol):
    """A point in the queue of a device's work."""

    def wait(self) -> None:
        """Return when all work that was queued before the event is done."""

    def done(self) -> bool:
        """Whether it is, without waiting."""


class Graph(Protocol):
    """Launches and products that were captured, to be queued again by one call."""

    def launch(self) -> None:
        """Queue them all, on the addresses of the capture."""


@runtime_checkable
class Device(Protocol):
    """One CUDA device, or something that behaves like one. Work is queued in order."""

    name: str
    arch: int  # what kernels are compiled for: 90 is sm_90
    num_multiprocessors: int
    max_shared_bytes: int  # dynamic shared memory a block may ask for

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An uninitialised C-contiguous array (float16, float32, int32, ml_dtypes.bfloat16...).

        Raises MemoryError when the device has no room for it.
        """

    def upload(self, host: np.ndarray) -> Array:
        """A device copy of a C-contiguous NumPy array."""

    def download(self, array: Array) -> np.ndarray:
        """A NumPy copy of a C-contiguous array; waits for all queued work."""

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Page-locked host memory, which `copy_in` and `copy_out` take; uninitialised."""

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        """Queue a copy of pinned memory to a device array of the same shape and dtype.

        Returns at once: the host array must stay as it is until an event recorded after this.
        """

    def copy_out(self, array: Array, host: np.ndarray) -> None:
        """Queue a copy of a contiguous device array to pinned memory; it is there at an event
        recorded after this.
        """

    def record(self) -> Event:
        """An event behind all that is queued so far."""

    def synchronize(self) -> None:
        """Wait for all queued work."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` launches and multiplies, not done now but whenever the graph is launched.

        Arrays that `work` makes by `empty` belong to the graph and hold nothing between two
        launches; every other array must be alive at each launch. `work` may not copy or wait, and
        every kernel it launches must have run before.
        """

    def free_memory(self) -> int:
        """Bytes that could still be allocated."""

    def kernel(self, file: str, name: str, *template_args: str | int) -> Kernel:
        """The kernel `name<template_args...>` of kernels/`file`.cu, compiled once and cached.

        An argument that is None becomes a null pointer.
        """

    def prepare(self, requests: Sequence[KernelRequest]) -> None:
        """Compile these kernels side by side, as far as they are not cached. Any thread may ask."""

    def gemm(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        transpose_b: bool = True,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """out = beta * out + alpha * a @ bᵀ (or a @ b), in place, accumulated in float32.

        a [..., m, k], b [..., n, k] ([..., k, n] if not transpose_b), out [..., m, n]: two axes,
        or three for a strided batch. Last axis contiguous, rows apart, the stride of a batch free
        (0 repeats an operand). a and b share a dtype; out has it too, or is float32. With
        beta = 0 what out held is not read. Raises ValueError for operands that do not fit.
        """


def check_contiguous(name: str, array: Array) -> None:
    """ValueError unless the elements of an array lie one behind the other."""
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: the array must be C-contiguous, got shape {array.shape}, "
            f"strides {array.strides}"
        )


def check_copy(name: str, host: np.ndarray, array: Array) -> None:
    """ValueError unless `Device.copy_in` or `copy_out` may copy between the two."""
    if host.shape != array.shape or host.dtype != array.dtype:
        raise ValueError(
            f"{name}: host {host.shape} {host.dtype} and device {array.shape} {array.dtype} differ"
        )
    if not (host.flags.c_contiguous and array.flags.c_contiguous):
        raise ValueError(f"{name}: both sides must be C-contiguous")


def check_gemm(a: Array, b: Array, out: Array, *, transpose_b: bool) -> None:
    """ValueError unless the operands are as `Device.gemm` states."""
    for name, array in (("a", a), ("b", b), ("out", out)):
        if array.ndim not in (2, 3) or array.ndim != a.ndim:
            raise ValueError(f"gemm: {name} must have 2 axes, or all three 3, got {array.shape}")
        if array.size == 0:
            continue  # its strides mean nothing, and in CuPy they are zero
        if array.shape[-1] > 1 and array.strides[-1] != array.dtype.itemsize:
            raise ValueError(
                f"gemm: the last axis of {name} must be contiguous, got strides {array.strides}"
            )
        stride, row_bytes = array.strides[-2], array.shape[-1] * array.dtype.itemsize
        if array.shape[-2] > 1 and (stride < row_bytes or stride % array.dtype.itemsize):
            raise ValueError(
                f"gemm: the rows of {name} must not overlap, got strides {array.strides}"
            )
    n, k = (b.shape[-2], b.shape[-1]) if transpose_b else (b.shape[-1], b.shape[-2])
    if a.shape[-1] != k or out.shape != (*a.shape[:-1], n) or a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"gemm: shapes do not fit: {a.shape}, {b.shape} -> {out.shape}")
    if a.dtype != b.dtype or out.dtype not in (a.dtype, np.dtype(np.float32)):
        raise ValueError(f"gemm: dtypes do not fit: {a.dtype}, {b.dtype} -> {out.dtype}")
