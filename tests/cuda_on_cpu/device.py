"""The Device seam over NumPy memory and host-compiled kernels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.ops.cuda_kernels import KERNEL_DIR
from llama_cu.ops.cuda_templates import Specialisation
from llama_cu.ops.device import Kernel, KernelRequest, check_contiguous, check_copy, check_gemm
from tests.cuda_on_cpu import arguments
from tests.cuda_on_cpu.build import build
from tests.cuda_on_cpu.bundles import bundle
from tests.cuda_on_cpu.library import ORDERS, Arena, KernelFault, LaunchError, Library
from tests.cuda_on_cpu.memory import POISON, Memory
from tests.cuda_on_cpu.queue import Event, Graph, Place, WorkQueue

Array = Any
SANITIZE_VARIABLE = "CUDA_ON_CPU_SANITIZE"
ORDER_VARIABLE = "CUDA_ON_CPU_ORDER"


class CpuDevice:
    """A device whose every launch is checked and executed on this processor.

    `sanitize` builds kernels with AddressSanitizer and UBSan (the process must be started by
    tests.cuda_on_cpu.sanitized). `order` is how threads and blocks take turns: "forward",
    "reversed", or a seed; no kernel's result may depend on it. Both default to what the
    environment says, so that a whole test run can be repeated under them. With `lazy` nothing is
    done before somebody waits for it. Kernels whose names `overlap` takes begin before those ahead
    have ended: what these have written is NaN to them until they wait for it.
    """

    name = "cuda-on-cpu"

    def __init__(
        self,
        *,
        sanitize: bool | None = None,
        order: str | int | None = None,
        lazy: bool = False,
        overlap: Callable[[str], bool] = lambda name: False,
        num_multiprocessors: int = 8,
        max_shared_bytes: int | None = None,
        memory_bytes: int = 2**28,
        kernel_dir: Path = KERNEL_DIR,
        arch: int = 80,
    ) -> None:
        self.num_multiprocessors = num_multiprocessors
        self.max_shared_bytes = max_shared_bytes or arguments.least_shared_bytes(arch)
        self.arch = arch
        self.requests: set[KernelRequest] = set()
        self.prepared: set[KernelRequest] = set()
        self._sanitize = bool(os.environ.get(SANITIZE_VARIABLE)) if sanitize is None else sanitize
        self._order = _order(os.environ.get(ORDER_VARIABLE, "forward") if order is None else order)
        self._kernel_dir = kernel_dir
        self._memory = Memory(memory_bytes, sanitize=self._sanitize)
        self._queue = WorkQueue(lazy=lazy)
        self._overlap = overlap
        self._written: list[np.ndarray] = []  # by kernels that may be at work when one begins
        self._arena: Arena | None = None
        self._libraries: dict[Path, Library] = {}
        self._kernels: dict[KernelRequest, Kernel] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A C-contiguous array whose bytes are all 0xFF, guarded on both sides."""
        array = self._memory.empty(shape, dtype)
        self._queue.own(array)
        return array

    def sparse(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of zeros that takes memory only where it is touched, guarded on both sides."""
        return self._memory.sparse(shape, dtype)

    def upload(self, host: np.ndarray) -> Array:
        check_contiguous("upload", host)
        self._queue.forbid_in_capture("an upload")
        array, source = self.empty(host.shape, host.dtype), host.copy()
        self._queue.add(lambda: np.copyto(array, source))
        return array

    def download(self, array: Array) -> np.ndarray:
        check_contiguous("download", array)
        self._queue.wait()
        self._memory.check()
        return np.array(array)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Host memory that a device would not own: full of 0xFF."""
        raw = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, POISON, np.uint8)
        return raw.view(dtype).reshape(shape)

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        self._check_copy("copy_in", host, out)
        self._queue.add(lambda: np.copyto(out, host))

    def copy_out(self, array: Array, host: np.ndarray) -> None:
        self._check_copy("copy_out", host, array)
        self._queue.add(lambda: np.copyto(host, array))

    def _check_copy(self, name: str, host: np.ndarray, array: Array) -> None:
        check_copy(name, host, array)
        if not self._memory.owns(array) or self._memory.owns(host):
            raise ValueError(f"{name}: one side must be device memory, the other host memory")

    def record(self) -> Event:
        return Event(self._queue)

    def synchronize(self) -> None:
        self._queue.wait()
        self._memory.check()

    def capture(self, work: Callable[[], None]) -> Graph:
        return self._queue.capture(work)

    def free_memory(self) -> int:
        return self._memory.free_bytes()

    def kernel(self, file: str, name: str, *template_args: str | int) -> Kernel:
        """The kernel, compiled by the host compiler; NoCompiler or BuildError if that fails."""
        request = (file, name, template_args)
        if request not in self._kernels:
            self._kernels[request] = self._load(Specialisation(file, name, template_args))
            self.requests.add(request)
        return self._kernels[request]

    def prepare(self, requests: Sequence[KernelRequest]) -> None:
        """Remember what was announced; it is compiled when it is asked for."""
        self.prepared.update(requests)

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
        """out = beta * out + alpha * a @ bᵀ in float32; ValueError for what cuBLAS cannot do."""
        check_gemm(a, b, out, transpose_b=transpose_b)
        for array in (a, b, out):
            if not self._memory.owns(array):
                raise ValueError("gemm: an operand is not in device memory: upload it")
        places = [Place.of(array) for array in (a, b, out)]
        work = partial(_multiply, places, transpose_b=transpose_b, alpha=alpha, beta=beta)
        self._queue.add_launch(work, (a, b, out))

    def _load(self, wanted: Specialisation) -> Kernel:
        together = bundle(wanted, self._kernel_dir, arch=self.arch)
        source = self._kernel_dir / f"{wanted.file}.cu"
        path = build(source, together, sanitize=self._sanitize, arch=self.arch)
        if path not in self._libraries:
            self._libraries[path] = Library(path)
        library = self._libraries[path]
        if self._arena is None:
            self._arena = Arena(library.arena_bytes())
        label = f"{wanted.file}.cu: {wanted.expression}"
        bound = arguments.launch_bound(source, wanted.name) or arguments.UNBOUNDED_THREADS
        index = together.index(wanted.expression)
        return partial(self._launch, label, library, index, bound, self._overlap(wanted.name))

    def _launch(
        self,
        label: str,
        library: Library,
        index: int,
        max_threads: int,
        waits: bool,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_bytes: int = 0,
        *,
        early: bool = True,
    ) -> None:
        early = early and waits
        arena = self._arena
        assert arena is not None
        try:
            extents = arguments.three("grid", grid, limits=arguments.MAX_GRID)
            threads = arguments.three("block", block, limits=arguments.MAX_BLOCK)
            if math.prod(threads) > arguments.MAX_THREADS:
                limit = arguments.MAX_THREADS
                raise LaunchError(f"a block has at most {limit} threads, got {block}")
            if math.prod(threads) > max_threads:
                raise LaunchError(f"__launch_bounds__ allow {max_threads} threads, got {block}")
            limit = self.max_shared_bytes - library.static_shared_bytes
            if not 0 <= shared_bytes <= limit:
                raise LaunchError(f"shared_bytes must be in [0, {limit}], got {shared_bytes}")
            packed = arguments.pack(library.parameters[index], args, memory=self._memory)
        except LaunchError as error:
            raise LaunchError(f"{label}: {error}") from None

        pairs = zip(library.parameters[index], args, strict=True)
        outs = [arg for p, arg in pairs if p.kind == "p" and not p.pointee_is_const]
        arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
        withheld = None
        if early:
            bounds = {np.lib.array_utils.byte_bounds(array) for array in self._written}
            withheld = [(low, high - low) for low, high in sorted(bounds)]
            arrays += self._written
        kept = self._written if early else []
        self._written = [*kept, *(array for array in outs if array is not None)]

        def run(allocations: Sequence[np.ndarray]) -> None:
            try:
                library.launch(
                    index,
                    extents,
                    block=threads,
                    args=packed,
                    shared_bytes=shared_bytes,
                    arena=arena,
                    order=self._order,
                    withheld=withheld,
                )
                self._memory.check(allocations)
            except KernelFault as error:
                raise KernelFault(f"{label}: {error}") from None

        self._queue.add_launch(run, arrays)


def _multiply(
    places: Sequence[Place],
    allocations: Sequence[np.ndarray],
    *,
    transpose_b: bool,
    alpha: float,
    beta: float,
) -> None:
    pairs = zip(places, allocations, strict=True)
    a, b, out = (place.within(memory) for place, memory in pairs)
    right = b.astype(np.float32, copy=False)
    with np.errstate(all="ignore"):  # a GPU says nothing about infinities
        right = right.swapaxes(-1, -2) if transpose_b else right
        product = a.astype(np.float32, copy=False) @ right
        if alpha != 1.0:
            product *= np.float32(alpha)
        if beta != 0.0:
            product += np.float32(beta) * out.astype(np.float32)
        out[...] = product.astype(out.dtype)


def _order(order: str | int) -> str | int:
    if isinstance(order, int) or order in ORDERS:
        return order
    if order.isdigit():
        return int(order)
    raise ValueError(f"order must be forward, reversed or a seed, got {order!r}")
