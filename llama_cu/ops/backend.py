"""Picks the backend. Asking for CUDA and getting NumPy is never silent."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.base import Ops
from llama_cu.ops.numpy_ops import DTYPES, NumpyOps

DEVICES = ("auto", "cpu", "cuda")


def get_ops(device: str, dtype: str, *, checkpoint_dtype: str = "float32") -> tuple[Ops, str]:
    """The ops of a device, and one line on which was taken and why.

    `device` is auto, cpu or cuda; `dtype` a name of DTYPES or auto, which means the checkpoint's
    on CUDA and float32 on the CPU. Raises BackendUnavailable when cuda cannot be had, ValueError
    for other names.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {dtype!r}")
    if device == "cpu":
        return _numpy_ops(dtype), "cpu, as asked"
    cuda_dtype = DTYPES[checkpoint_dtype if dtype == "auto" else dtype]
    try:
        ops = _cuda_ops(cuda_dtype)
    except BackendUnavailable as reason:
        if device == "cuda":
            raise
        return _numpy_ops(dtype), f"cpu, because CUDA is not available: {reason}"
    note = "cuda, as asked" if device == "cuda" else "cuda, because a GPU is available"
    return ops, f"{note} ({ops.device_name})"


def _numpy_ops(dtype: str) -> Ops:
    return NumpyOps(DTYPES["float32" if dtype == "auto" else dtype])


def _cuda_ops(dtype: np.dtype[Any]) -> Ops:
    from llama_cu.ops.cuda_ops import CudaOps
    from llama_cu.ops.cupy_device import CupyDevice

    ops: Ops = CudaOps(CupyDevice(), dtype)
    return ops
