"""The Device seam on a GPU: CuPy's memory pools, streams and launches, our cubins, cuBLAS.

CuPy is imported when a device is made, so that the module can be read without it.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.cublas import Cublas, load_cublas
from llama_cu.ops.cuda_kernels import (
    WRITABLE,
    cached_cubin,
    default_cache_dir,
    supported_archs,
)
from llama_cu.ops.cuda_templates import Specialisation, overlaps
from llama_cu.ops.device import (
    Event,
    Graph,
    Kernel,
    KernelRequest,
    check_contiguous,
    check_copy,
    check_gemm,
)
from llama_cu.ops.overlapped_launch import OverlappedLaunches, load_driver

Array = Any

_OLDEST_CUPY = (14, 2)
_OLDEST_OVERLAPPING_ARCH = 90
_REMEDY = "pip install 'llama-cu[cuda12]' (or [cuda13])"
# What cuBLAS recommends for Hopper; more than enough for the others.
_CUBLAS_WORKSPACE_BYTES = 32 << 20
_COMPILE_THREADS = 8
_OUT_OF_MEMORY = 2  # cudaError_t
# Compute capabilities of Tegra (CUDA C++ Programming Guide, "Binary Compatibility").
_EMBEDDED = {53, 62, 72, 87, 101, 110}


class CupyDevice:
    """The current CUDA device.

    `on_compile` is called with a kernel's name before it is compiled for the first time. With
    `overlap` those launches of a graph that may begin before the kernel ahead has ended are made
    so, from compute capability 9.0 on; `overlaps` says whether. Raises BackendUnavailable, saying
    what to install, where there is no device, driver or library, and where the device refuses.
    """

    def __init__(
        self,
        *,
        cache_dir: Path | None = None,
        on_compile: Callable[[str], None] | None = None,
        overlap: bool = False,
    ) -> None:
        self._cupy = _import_cupy()
        self._runtime = self._cupy.cuda.runtime
        with _refusals():
            device = self._cupy.cuda.Device()
            properties = self._runtime.getDeviceProperties(device.id)
            self.name: str = properties["name"].decode()
            self.num_multiprocessors: int = device.attributes["MultiProcessorCount"]
            self.max_shared_bytes: int = device.attributes["MaxSharedMemoryPerBlockOptin"]
            self.arch: int = nearest_arch(int(device.compute_capability), supported_archs())
            workspace = self._cupy.empty(_CUBLAS_WORKSPACE_BYTES, np.uint8)
            self._cublas = Cublas(load_cublas(), workspace)
        self._id = int(device.id)
        self._cache_dir = cache_dir or default_cache_dir()
        self._on_compile = on_compile
        self._telling = Lock()
        self._kernels: dict[KernelRequest, Kernel] = {}
        # What graphs own comes from a pool of their own: nothing else is ever placed there. CuPy's
        # pools give back what looks free to them, and are never freed themselves: this list alone
        # owns the memory.
        self._graph_memory: list[Any] = []
        self._graph_pool = self._cupy.cuda.MemoryPool(self._allocate_for_graphs)
        self._capture_stream = self._cupy.cuda.Stream(non_blocking=True)
        self.overlaps = overlap and self.arch >= _OLDEST_OVERLAPPING_ARCH
        self._overlapped = OverlappedLaunches(load_driver()) if self.overlaps else None
        self._capturing = False

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An uninitialised array; CuPy's OutOfMemoryError is a MemoryError.

        RuntimeError in a thread in which another device is the current one: its memory and its
        streams are not ours.
        """
        current = self._runtime.getDevice()
        if current != self._id:
            raise RuntimeError(
                f"the model is on CUDA device {self._id}, but device {current} is the current "
                f"one: use it within cupy.cuda.Device({self._id})"
            )
        return self._cupy.empty(shape, dtype)

    def upload(self, host: np.ndarray) -> Array:
        check_contiguous("upload", host)
        array = self.empty(host.shape, host.dtype)
        if host.size:
            array.set(host)
        return array

    def download(self, array: Array) -> np.ndarray:
        check_contiguous("download", array)
        host: np.ndarray = array.get()
        return host

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = math.prod(shape)
        memory = self._cupy.cuda.alloc_pinned_memory(max(size * dtype.itemsize, 1))
        return np.frombuffer(memory, dtype, size).reshape(shape)

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        check_copy("copy_in", host, out)
        if host.nbytes:
            out.data.copy_from_host_async(host.ctypes.data, host.nbytes)

    def copy_out(self, array: Array, host: np.ndarray) -> None:
        check_copy("copy_out", host, array)
        if host.nbytes:
            array.data.copy_to_host_async(host.ctypes.data, host.nbytes)

    def record(self) -> Event:
        return _CupyEvent(self._cupy.cuda)

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def capture(self, work: Callable[[], None]) -> Graph:
        """A CUDA graph. Capturing cannot be done on the default stream, launching can."""
        # What is no longer used may wait for the device when it is freed, which breaks a capture.
        collects = gc.isenabled()
        gc.disable()
        try:
            with self._memory_errors():
                return self._capture(work)
        except MemoryError:  # the other pool may keep what a graph has no access to
            self._cupy.get_default_memory_pool().free_all_blocks()
            with self._memory_errors():
                return self._capture(work)
        finally:
            if collects:
                gc.enable()

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """A runtime that is out of memory raises MemoryError, as CuPy's pools do."""
        try:
            yield
        except self._runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            raise MemoryError(str(error)) from error

    def _allocate_for_graphs(self, size: int) -> Any:
        # No CUDARuntimeError: at that one the pool forgets all that it has.
        with self._memory_errors():
            memory = self._cupy.cuda.Memory(size)
        self._graph_memory.append(memory)
        unowned = self._cupy.cuda.UnownedMemory(memory.ptr, size, None, memory.device_id)
        return self._cupy.cuda.MemoryPointer(unowned, 0)

    def _capture(self, work: Callable[[], None]) -> Graph:
        stream = self._capture_stream
        with self._cupy.cuda.using_allocator(self._graph_pool.malloc), stream:
            self._cublas.use_stream(stream.ptr)
            stream.begin_capture()
            self._capturing = True
            try:
                work()
            except BaseException:
                # The broken capture has to end too; what it says of itself is the lesser news.
                with contextlib.suppress(self._runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            finally:
                self._capturing = False
            graph: Graph = stream.end_capture()
        return graph

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

    def prepare(self, requests: Sequence[KernelRequest]) -> None:
        def compile_one(request: KernelRequest) -> None:
            file, name, template_args = request
            self._cubin(Specialisation(file, name, template_args))

        with ThreadPoolExecutor(_COMPILE_THREADS, "compile") as threads:
            for _ in threads.map(compile_one, requests):
                pass  # raises what a compilation raised

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
        self._cublas.gemm(
            a,
            b,
            out,
            transpose_b=transpose_b,
            alpha=alpha,
            beta=beta,
            stream=self._cupy.cuda.get_current_stream().ptr,
        )

    def _cubin(self, specialisation: Specialisation) -> tuple[Path, str]:
        return cached_cubin(
            specialisation, arch=self.arch, cache_dir=self._cache_dir, on_compile=self._tell
        )

    def _tell(self, name: str) -> None:
        with self._telling:  # one at a time, whoever is told need not expect threads
            if self._on_compile:
                self._on_compile(name)

    def _load(self, specialisation: Specialisation) -> Kernel:
        path, lowered_name = self._cubin(specialisation)
        raw = self._cupy.RawModule(path=str(path)).get_function(lowered_name)
        waits = overlaps(specialisation.name)
        has_shared = False

        def launch(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: Sequence[Any],
            shared_bytes: int = 0,
            *,
            early: bool = True,
        ) -> None:
            nonlocal has_shared
            if not all((*grid, *block)):  # CuPy would launch one block where none is asked for
                raise ValueError(f"a launch must not be empty, got grid {grid}, block {block}")
            if shared_bytes and not has_shared:
                # Over 48 KiB must be asked for. All there is, because CuPy has one function for
                # all devices of a process, and less would take away what another asked for.
                most = self.max_shared_bytes - raw.shared_size_bytes
                raw.max_dynamic_shared_size_bytes = most
                has_shared = True
            if early and waits and self._capturing and self._overlapped is not None:
                stream = self._cupy.cuda.get_current_stream().ptr
                function = raw.kernel.ptr
                options = {"shared_bytes": shared_bytes, "stream": stream}
                self._overlapped(function, grid, block, args, **options)
            else:
                raw(grid, block, args, shared_mem=shared_bytes)

        return launch


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """A device that is there and cannot be used, because others have it or all its memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise BackendUnavailable(f"the GPU cannot be used ({error})") from error


class _CupyEvent:
    """`Event` on the current stream."""

    def __init__(self, cuda: Any) -> None:
        self._event = cuda.Event(disable_timing=True)
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()

    def done(self) -> bool:
        return bool(self._event.done)


def nearest_arch(capability: int, supported: Sequence[int]) -> int:
    """The newest architecture NVRTC knows whose machine code the device runs: same major version.

    Embedded chips run their own alone, and no others run theirs. Raises BackendUnavailable when
    NVRTC is too old for the device.
    """
    own_alone = capability in _EMBEDDED
    fitting = [
        arch
        for arch in set(supported) - (_EMBEDDED - {capability})
        if arch == capability or (not own_alone and capability // 10 * 10 <= arch < capability)
    ]
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
    except OSError as error:
        raise BackendUnavailable(f"CuPy could not be imported ({error}): {WRITABLE}") from None
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
