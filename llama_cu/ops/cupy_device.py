"""The Device seam on a GPU, through CuPy: its memory pool, our cubins, cuBLAS.

CuPy is imported when a device is made, so that the module can be read without it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.cuda_kernels import (
    Specialisation,
    cached_cubin,
    default_cache_dir,
    supported_archs,
)
from llama_cu.ops.device import Kernel, check_gemm

Array = Any

_OLDEST_CUPY = (14, 2)
_REMEDY = "pip install 'llama-cu[cuda12]' (or [cuda13])"
# cublasMath_t: float32 sums everywhere, never a half-precision partial; no TF32.
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16


class CupyDevice:
    """The current CUDA device.

    `on_compile` is called with a kernel's name before it is compiled for the first time. Raises
    BackendUnavailable, saying what to install, where there is no device, driver or library.
    """

    def __init__(
        self,
        *,
        cache_dir: Path | None = None,
        on_compile: Callable[[str], None] | None = None,
    ) -> None:
        self._cupy = _import_cupy()
        self._runtime = self._cupy.cuda.runtime
        self._cublas = _import_cublas()
        device = self._cupy.cuda.Device()
        properties = self._runtime.getDeviceProperties(device.id)
        self.name: str = properties["name"].decode()
        self.num_multiprocessors: int = device.attributes["MultiProcessorCount"]
        self.max_shared_bytes: int = device.attributes["MaxSharedMemoryPerBlockOptin"]
        self.arch = nearest_arch(int(device.compute_capability), supported_archs())
        self._cache_dir = cache_dir or default_cache_dir()
        self._on_compile = on_compile
        self._kernels: dict[tuple[str, str, tuple[str | int, ...]], Kernel] = {}
        self._handle = self._cublas.create()
        weakref.finalize(self, self._cublas.destroy, self._handle)
        self._cublas.setMathMode(self._handle, _DISALLOW_REDUCED_PRECISION_REDUCTION)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An uninitialised array; CuPy's OutOfMemoryError is a MemoryError."""
        return self._cupy.empty(shape, dtype)

    def upload(self, host: np.ndarray) -> Array:
        if not host.flags.c_contiguous:
            raise ValueError(f"upload: the array must be C-contiguous, got strides {host.strides}")
        array = self.empty(host.shape, host.dtype)
        if host.size:
            array.set(host)
        return array

    def download(self, array: Array) -> np.ndarray:
        host: np.ndarray = array.get()
        return host

    def free_memory(self) -> int:
        """What the driver has free and what CuPy's pool holds unused, within the pool's limit."""
        pool = self._cupy.get_default_memory_pool()
        free = int(self._runtime.memGetInfo()[0]) + int(pool.free_bytes())
        limit = int(pool.get_limit())
        return min(free, limit - int(pool.used_bytes())) if limit else free

    def kernel(self, file: str, name: str, *template_args: str | int) -> Kernel:
        request = (file, name, template_args)
        if request not in self._kernels:
            self._kernels[request] = self._load(Specialisation(file, name, template_args))
        return self._kernels[request]

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
        """cuBLAS with CUBLAS_COMPUTE_32F; ValueError for operands that do not fit."""
        check_gemm(a, b, out, transpose_b=transpose_b)
        if out.size == 0:
            return
        layout = gemm_layout(a, b, out, transpose_b=transpose_b)
        alpha_host, beta_host = np.array([alpha], np.float32), np.array([beta], np.float32)
        in_type, out_type = self._cuda_type(a.dtype), self._cuda_type(out.dtype)
        shape = (layout.transpose_first, 0, layout.m, layout.n, layout.k)
        tail = (self._cublas.CUBLAS_COMPUTE_32F, self._cublas.CUBLAS_GEMM_DEFAULT)
        if a.ndim == 2:
            self._cublas.gemmEx(
                self._handle, *shape, alpha_host.ctypes.data,
                b.data.ptr, in_type, layout.first_ld, a.data.ptr, in_type, layout.second_ld,
                beta_host.ctypes.data, out.data.ptr, out_type, layout.out_ld, *tail,
            )  # fmt: skip
        else:
            self._cublas.gemmStridedBatchedEx(
                self._handle, *shape, alpha_host.ctypes.data,
                b.data.ptr, in_type, layout.first_ld, layout.first_stride,
                a.data.ptr, in_type, layout.second_ld, layout.second_stride,
                beta_host.ctypes.data, out.data.ptr, out_type, layout.out_ld, layout.out_stride,
                layout.batch, *tail,
            )  # fmt: skip

    def _cuda_type(self, dtype: np.dtype[Any]) -> int:
        types = {"float32": "CUDA_R_32F", "float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF"}
        if dtype.name not in types:
            raise ValueError(f"gemm: dtype must be one of {', '.join(types)}, got {dtype}")
        return int(getattr(self._runtime, types[dtype.name]))

    def _load(self, specialisation: Specialisation) -> Kernel:
        path, lowered_name = cached_cubin(
            specialisation, arch=self.arch, cache_dir=self._cache_dir, on_compile=self._on_compile
        )
        raw = self._cupy.RawModule(path=str(path)).get_function(lowered_name)
        allowed_shared_bytes = 0

        def launch(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: Sequence[Any],
            shared_bytes: int = 0,
        ) -> None:
            nonlocal allowed_shared_bytes
            if not all((*grid, *block)):  # CuPy would launch one block where none is asked for
                raise ValueError(f"a launch must not be empty, got grid {grid}, block {block}")
            if shared_bytes > allowed_shared_bytes:  # static and dynamic over 48 KiB need it
                raw.max_dynamic_shared_size_bytes = shared_bytes
                allowed_shared_bytes = shared_bytes
            raw(grid, block, args, shared_mem=shared_bytes)

        return launch


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


def nearest_arch(capability: int, supported: Sequence[int]) -> int:
    """The newest architecture NVRTC knows whose machine code the device runs: same major version.

    Raises BackendUnavailable when NVRTC is too old for the device.
    """
    fitting = [a for a in supported if a // 10 == capability // 10 and a <= capability]
    if not fitting:
        raise BackendUnavailable(
            f"this NVRTC does not compile for compute capability {capability / 10}: "
            f"update CuPy and the CUDA wheels ({_REMEDY})"
        )
    return max(fitting)


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(f"CuPy could not be imported ({error}): {_REMEDY}") from None
    version = tuple(int(part) for part in cupy.__version__.split(".")[:2])
    if version < _OLDEST_CUPY:
        raise BackendUnavailable(f"CuPy must be at least 14.2, got {cupy.__version__}: {_REMEDY}")
    if not cupy.cuda.is_available():
        try:
            reason = f"{cupy.cuda.runtime.getDeviceCount()} devices"
        except cupy.cuda.runtime.CUDARuntimeError as error:
            reason = str(error).split(":")[0]  # the name, without its sentence
        raise BackendUnavailable(
            f"no GPU was found; where there is one, install an NVIDIA driver ({reason})"
        )
    return cupy


def _import_cublas() -> Any:
    try:
        from cupy_backends.cuda.libs import cublas
    except ImportError as error:
        raise BackendUnavailable(f"cuBLAS could not be loaded ({error}): {_REMEDY}") from None
    return cublas
