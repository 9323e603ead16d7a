"""cuBLAS as its manual has it: the matrix products, of column-major matrices."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from tests.cupy_on_cpu.machine import INT, POINTER, SIZE, CudaError, Machine, Signature

_INVALID_VALUE = 7  # cublasStatus_t
_COMPUTE_32F = 68  # cublasComputeType_t
_WORKSPACE_ALIGNMENT = 256
# cudaDataType_t
_DTYPES = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
_STRIDE = ctypes.c_longlong
# handle, transa, transb, m, n, k, alpha; then A, B, beta, C
_HEAD = (POINTER, INT, INT, INT, INT, INT, POINTER)
_MATRIX = (POINTER, INT, INT)
_BATCH = (POINTER, INT, INT, _STRIDE)


@dataclass(frozen=True)
class _Operand:
    address: int
    dtype_code: int
    leading: int
    stride: int
    rows: int
    columns: int

    def check(self, machine: Machine, count: int) -> None:
        fits = self.dtype_code in _DTYPES and self.leading >= max(self.rows, 1)
        if not fits or not machine.owns(self.address, self._span(count)):
            raise CudaError(_INVALID_VALUE)

    def _span(self, count: int) -> int:
        last = (count - 1) * self.stride + (self.columns - 1) * self.leading + self.rows
        return last * _DTYPES[self.dtype_code].itemsize

    def matrix(self, index: int) -> np.ndarray:
        """The matrix at this index of the batch, as a view of memory."""
        dtype = _DTYPES[self.dtype_code]
        start = self.address + index * self.stride * dtype.itemsize
        raw = (ctypes.c_char * self._span(1)).from_address(start)
        strides = (dtype.itemsize, self.leading * dtype.itemsize)
        return np.ndarray((self.rows, self.columns), dtype, raw, strides=strides)


class Cublas:
    """The functions whose names begin with cublas."""

    CALLS: ClassVar[dict[str, Signature]] = {
        "cublasCreate_v2": ("create", (POINTER,)),
        "cublasDestroy_v2": ("destroy", (POINTER,)),
        "cublasSetMathMode": ("set_math_mode", (POINTER, INT)),
        "cublasSetStream_v2": ("set_stream", (POINTER, POINTER)),
        "cublasSetWorkspace_v2": ("set_workspace", (POINTER, POINTER, SIZE)),
        "cublasGemmEx": ("gemm", (*_HEAD, *_MATRIX, *_MATRIX, POINTER, *_MATRIX, INT, INT)),
        "cublasGemmStridedBatchedEx": (
            "gemm_batched",
            (*_HEAD, *_BATCH, *_BATCH, POINTER, *_BATCH, INT, INT, INT),
        ),
    }

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def create(self, out: int) -> None:
        self._machine.new_handle({"stream": 0}, out)

    def destroy(self, handle: int) -> None:
        self._machine.drop_handle(handle)

    def set_math_mode(self, handle: int, mode: int) -> None:
        self._machine.thing(handle)

    def set_stream(self, handle: int, stream: int) -> None:
        self._machine.thing(handle)["stream"] = stream

    def set_workspace(self, handle: int, address: int, size: int) -> None:
        self._machine.thing(handle)
        if not self._machine.owns(address, size) or address % _WORKSPACE_ALIGNMENT:
            raise CudaError(_INVALID_VALUE)

    def gemm(self, *args: Any) -> None:
        head, beta, compute = args[:7], args[13], args[17]
        a, b, c = ((*args[at : at + 3], 0) for at in (7, 10, 14))
        self._multiply(head, a, b, c, beta=beta, count=1, compute=compute)

    def gemm_batched(self, *args: Any) -> None:
        head, a, b, beta, c = args[:7], args[7:11], args[11:15], args[15], args[16:20]
        self._multiply(head, a, b, c, beta=beta, count=args[20], compute=args[21])

    def _multiply(
        self, head: Any, a: Any, b: Any, c: Any, *, beta: int, count: int, compute: int
    ) -> None:
        handle, transpose_a, transpose_b, m, n, k, alpha = head
        left = _Operand(*a, *((k, m) if transpose_a else (m, k)))
        right = _Operand(*b, *((n, k) if transpose_b else (k, n)))
        out = _Operand(*c, m, n)
        for operand in (left, right, out):
            operand.check(self._machine, count)
        if compute != _COMPUTE_32F or left.dtype_code != right.dtype_code:
            raise CudaError(_INVALID_VALUE)
        scales = [np.float32(ctypes.c_float.from_address(at).value) for at in (alpha, beta)]

        def run() -> None:
            for index in range(count):
                x, y, target = (operand.matrix(index) for operand in (left, right, out))
                x, y = (matrix.astype(np.float32) for matrix in (x, y))
                with np.errstate(all="ignore"):  # a GPU says nothing about infinities
                    product = (x.T if transpose_a else x) @ (y.T if transpose_b else y)
                    product *= scales[0]
                    if scales[1]:
                        product += scales[1] * target.astype(np.float32)
                    target[...] = product.astype(target.dtype)

        self._machine.add(self._machine.thing(handle)["stream"], run)
