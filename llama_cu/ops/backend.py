"""Picks the backend. Asking for CUDA and getting NumPy is never silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.base import Ops
from llama_cu.ops.device import Device
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps

DEVICES = ("auto", "cpu", "cuda")


def get_ops(
    device: str | Device,
    dtype: str,
    *,
    checkpoint_dtype: str = "float32",
    low_memory: bool = False,
    on_compile: Callable[[str], None] | None = None,
    overlap: bool = False,
) -> tuple[Ops, str]:
    """The ops of a device, and one line on which was taken and why.

    `device` is auto, cpu, cuda, or a Device to run the CUDA kernels on; `dtype` a name of DTYPES
    or auto, which means the checkpoint's on CUDA and float32 on the CPU. `low_memory` is for a CPU.
    `on_compile` is told the name of each kernel that must be compiled first; `overlap` is
    CupyDevice's. Raises
    BackendUnavailable when cuda cannot be had, ValueError for other names.
    """
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {dtype!r}")
    cuda_dtype = DTYPES[checkpoint_dtype if dtype == "auto" else dtype]
    if isinstance(device, Device):
        return _cuda_ops(device, cuda_dtype), f"{device.name}, as given"
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu":
        return _numpy_ops(dtype, low_memory), "cpu, as asked"
    try:
        gpu = _open_gpu(on_compile, overlap)
    except BackendUnavailable as reason:
        if device == "cuda":
            raise
        return _numpy_ops(dtype, low_memory), f"cpu, because CUDA is not available: {reason}"
    why = "as asked" if device == "cuda" else "because a GPU is available"
    return _cuda_ops(gpu, cuda_dtype), f"cuda, {why} ({gpu.name})"


def _numpy_ops(dtype: str, low_memory: bool) -> Ops:
    return NumpyOps(DTYPES["float32" if dtype == "auto" else dtype], low_memory=low_memory)


def _cuda_ops(device: Device, dtype: np.dtype[Any]) -> Ops:
    from llama_cu.ops.cuda_ops import CudaOps

    return CudaOps(device, dtype)


def _open_gpu(on_compile: Callable[[str], None] | None, overlap: bool) -> Device:
    from llama_cu.ops.cupy_device import CupyDevice

    return CupyDevice(on_compile=on_compile, overlap=overlap)
