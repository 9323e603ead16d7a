"""cuBLAS by ctypes: the calls of a matrix product, which a CUDA graph may capture.

CuPy's own binding refuses to work while a stream is captured.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable

Array = Any

_REMEDY = "pip install 'llama-cu[cuda12]' (or [cuda13])"

_COMPUTE_32F = 68  # cublasComputeType_t
_DEFAULT_ALGORITHM = -1  # cublasGemmAlgo_t
# cublasMath_t: float32 sums everywhere, never a half-precision partial; no TF32.
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
_CUDA_TYPES = {"float32": 0, "float16": 2, "bfloat16": 14}  # cudaDataType_t

_int, _pointer, _stride = ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong
# Without the handle, which comes first everywhere. Matrices are pointer, type, leading dimension.
_GEMM_HEAD = (_int,) * 5 + (_pointer,)
_SIGNATURES = {
    "cublasSetStream_v2": (_pointer,),
    "cublasSetWorkspace_v2": (_pointer, ctypes.c_size_t),
    "cublasSetMathMode": (_int,),
    "cublasDestroy_v2": (),
    "cublasGemmEx": (
        *_GEMM_HEAD,
        *(_pointer, _int, _int),
        *(_pointer, _int, _int),
        *(_pointer, _pointer, _int, _int),
        *(_int, _int),
    ),
    "cublasGemmStridedBatchedEx": (
        *_GEMM_HEAD,
        *(_pointer, _int, _int, _stride),
        *(_pointer, _int, _int, _stride),
        *(_pointer, _pointer, _int, _int, _stride),
        *(_int, _int, _int),
    ),
}


class Cublas:
    """One cuBLAS handle with a workspace of its own. One thread at a time may use it.

    `workspace` is device memory that the handle keeps alive. BackendUnavailable where cuBLAS
    cannot be loaded.
    """

    def __init__(self, library: Any, workspace: Array) -> None:
        self._library = library
        self._workspace = workspace
        self._stream: int | None = None
        for name, parameters in _SIGNATURES.items():
            getattr(library, name).argtypes = (_pointer, *parameters)
        library.cublasCreate_v2.argtypes = (ctypes.POINTER(_pointer),)
        library.cublasGetStatusString.restype = ctypes.c_char_p
        handle = _pointer()
        self._check("cublasCreate_v2", library.cublasCreate_v2(ctypes.byref(handle)))
        self._handle = handle
        weakref.finalize(self, library.cublasDestroy_v2, handle)
        self._call("cublasSetMathMode", _DISALLOW_REDUCED_PRECISION_REDUCTION)

    def gemm(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        transpose_b: bool,
        alpha: float,
        beta: float,
        stream: int,
    ) -> None:
        """`Device.gemm` of operands that passed check_gemm, queued on a stream (its pointer)."""
        self.use_stream(stream)
        layout = gemm_layout(a, b, out, transpose_b=transpose_b)
        alpha_host, beta_host = ctypes.c_float(alpha), ctypes.c_float(beta)
        in_type, out_type = _cuda_type(a.dtype), _cuda_type(out.dtype)
        head = (layout.transpose_first, 0, layout.m, layout.n, layout.k, ctypes.byref(alpha_host))
        first: tuple[Any, ...] = (b.data.ptr, in_type, layout.first_ld)
        second: tuple[Any, ...] = (a.data.ptr, in_type, layout.second_ld)
        target: tuple[Any, ...] = (out.data.ptr, out_type, layout.out_ld)
        tail: tuple[int, ...] = (_COMPUTE_32F, _DEFAULT_ALGORITHM)
        name = "cublasGemmEx"
        if a.ndim == 3:
            name = "cublasGemmStridedBatchedEx"
            first, second = (*first, layout.first_stride), (*second, layout.second_stride)
            target, tail = (*target, layout.out_stride), (layout.batch, *tail)
        self._call(name, *head, *first, *second, ctypes.byref(beta_host), *target, *tail)

    def use_stream(self, stream: int) -> None:
        """Queue what follows on this stream (its pointer)."""
        if stream != self._stream:
            self._call("cublasSetStream_v2", stream)
            # A new stream takes the workspace away, and for a graph cuBLAS would allocate one.
            workspace = self._workspace
            self._call("cublasSetWorkspace_v2", workspace.data.ptr, workspace.nbytes)
            self._stream = stream

    def _call(self, name: str, *args: Any) -> None:
        self._check(name, getattr(self._library, name)(self._handle, *args))

    def _check(self, name: str, status: int) -> None:
        if status:
            reason = self._library.cublasGetStatusString(status).decode()
            raise RuntimeError(f"{name}: {reason} ({status})")


def load_cublas() -> ctypes.CDLL:
    """The cuBLAS library that belongs to the installed CUDA wheels or toolkit."""
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError as error:
        raise BackendUnavailable(f"cuBLAS could not be looked for ({error}): {_REMEDY}") from None
    try:
        found = load_nvidia_dynamic_lib("cublas").abs_path
        return ctypes.CDLL(found)
    except (DynamicLibNotFoundError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise BackendUnavailable(f"cuBLAS could not be loaded ({reason}): {_REMEDY}") from None


@dataclass(frozen=True)
class GemmLayout:
    """Row-major out = a @ b as cuBLAS sees it: column-major outᵀ = bᵀ aᵀ, so b comes first.

    Leading dimensions and strides count elements.
    """

    transpose_first: int  # CUBLAS_OP_T is 1, CUBLAS_OP_N is 0
    m: int
    n: int
    k: int
    first_ld: int
    second_ld: int
    out_ld: int
    first_stride: int
    second_stride: int
    out_stride: int
    batch: int


def gemm_layout(a: Array, b: Array, out: Array, *, transpose_b: bool) -> GemmLayout:
    """What to tell cuBLAS about operands that passed check_gemm."""
    return GemmLayout(
        transpose_first=int(transpose_b),
        m=out.shape[-1],
        n=out.shape[-2],
        k=a.shape[-1],
        first_ld=_leading(b),
        second_ld=_leading(a),
        out_ld=_leading(out),
        first_stride=_batch_stride(b),
        second_stride=_batch_stride(a),
        out_stride=_batch_stride(out),
        batch=out.shape[0] if out.ndim == 3 else 1,
    )


def _leading(array: Array) -> int:
    # The stride of a single row means nothing, but cuBLAS wants at least the row's length.
    rows, columns = array.shape[-2:]
    return max(columns, 1) if rows == 1 else int(array.strides[-2]) // int(array.dtype.itemsize)


def _batch_stride(array: Array) -> int:
    return int(array.strides[0]) // int(array.dtype.itemsize) if array.ndim == 3 else 0


def _cuda_type(dtype: np.dtype[Any]) -> int:
    if dtype.name not in _CUDA_TYPES:
        raise ValueError(f"gemm: dtype must be one of {', '.join(_CUDA_TYPES)}, got {dtype}")
    return _CUDA_TYPES[dtype.name]
