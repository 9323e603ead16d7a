"""Launches that begin before the kernel ahead of them has ended: the driver's cuLaunchKernelEx.

CuPy has no call for it. CUDA's name is programmatic dependent launch; kernels/ptx.cuh says what a
kernel must do to be launched so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable

_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
_VALUE_BYTES = 64


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: its value begins at byte 8."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("value", ctypes.c_int),
        ("rest_of_value", ctypes.c_char * (_VALUE_BYTES - ctypes.sizeof(ctypes.c_int))),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


class OverlappedLaunches:
    """Makes such launches through a loaded driver."""

    def __init__(self, driver: Any) -> None:
        self._launch = driver.cuLaunchKernelEx
        self._launch.argtypes = (ctypes.POINTER(_Config),) + (ctypes.c_void_p,) * 3
        self._attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)

    def __call__(
        self,
        function: int,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_bytes: int,
        stream: int,
    ) -> None:
        """Queue a kernel (a CUfunction); args as `Kernel` takes them. RuntimeError if refused."""
        values = [_bytes_of(arg) for arg in args]
        slots = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        config = _Config(
            grid=(*grid, 1, 1)[:3],
            block=(*block, 1, 1)[:3],
            shared_bytes=shared_bytes,
            stream=stream,
            attributes=ctypes.pointer(self._attribute),
            num_attributes=1,
        )
        status = self._launch(ctypes.byref(config), function, slots, None)
        if status:
            raise RuntimeError(f"cuLaunchKernelEx: CUDA error {status}, grid {grid}, block {block}")


def load_driver() -> ctypes.CDLL:
    """The driver's library. BackendUnavailable where it cannot be loaded."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendUnavailable(f"the CUDA driver could not be loaded ({error})") from None


def _bytes_of(arg: Any) -> ctypes.Array[ctypes.c_char]:
    if isinstance(arg, np.generic):
        return ctypes.create_string_buffer(arg.tobytes(), arg.nbytes)
    address = 0 if arg is None else int(arg.data.ptr)
    return ctypes.create_string_buffer(address.to_bytes(8, "little"), 8)
