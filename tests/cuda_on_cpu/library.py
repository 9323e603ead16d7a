"""A compiled kernel file: which parameters its kernels take, and how a launch calls them."""

from __future__ import annotations

import ctypes
import gc
import mmap
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ORDERS = {"forward": 0, "reversed": 1}
_NEW_ARENAS = 8


class LaunchError(Exception):
    """A launch that a GPU would refuse or misread: wrong argument, block, grid or shared memory."""


class KernelFault(Exception):
    """A kernel did what CUDA forbids: a missed barrier, a wild write, a lane outside its mask."""


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_int),
        ("kind", ctypes.c_char),
        ("pointee_kind", ctypes.c_char),
        ("pointee_is_const", ctypes.c_bool),
        ("pointee_bytes", ctypes.c_int),
    )


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("num_parameters", ctypes.c_int),
        ("parameters", ctypes.POINTER(_Parameter)),
        ("entry", ctypes.c_void_p),
    )


class _Withheld(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("num_bytes", ctypes.c_uint64), ("kept", ctypes.c_void_p))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("args", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("page_bytes", ctypes.c_uint64),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_uint64),
        ("overlaps", ctypes.c_int),
        ("num_withheld", ctypes.c_int),
        ("withheld", ctypes.POINTER(_Withheld)),
    )


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. Kinds are listed in shim/signature.h."""

    num_bytes: int
    kind: str
    pointee_kind: str
    pointee_is_const: bool
    pointee_bytes: int


def asan_function(name: str) -> Callable[[int, int], int | None] | None:
    """AddressSanitizer's `__asan_...` of a range (address, bytes); None where it does not run."""
    try:
        function = ctypes.CDLL(None)[f"__asan_{name}"]
    except AttributeError:
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_void_p
    return function


class Arena:
    """Zeroed pages for the block and the stacks of its threads; touched only where used.

    Guards between the stacks make it thousands of mappings, of which a process may have 65,530.
    Where the collector has not come yet by the engines of earlier tests, it is called.

    Threads leave their stacks without unwinding, poisoned as AddressSanitizer found them. Whatever
    is mapped to these addresses next must not inherit that.
    """

    _alive: ClassVar[weakref.WeakSet[Arena]] = weakref.WeakSet()
    _enough: ClassVar[int] = _NEW_ARENAS

    def __init__(self, num_bytes: int) -> None:
        if len(self._alive) >= self._enough:
            gc.collect()
            Arena._enough = len(self._alive) + _NEW_ARENAS
        self._alive.add(self)
        self.num_bytes = num_bytes
        self._pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        unpoison = asan_function("unpoison_memory_region")
        if unpoison is not None:
            weakref.finalize(self, unpoison, self.address, num_bytes)


class Library:
    """One loaded shared object."""

    def __init__(self, path: Path) -> None:
        self._so = ctypes.CDLL(str(path))
        self._so.cuda_on_cpu_kernels.restype = ctypes.POINTER(_Entry)
        self._so.cuda_on_cpu_arena_bytes.restype = ctypes.c_uint64
        self._so.cuda_on_cpu_static_shared_bytes.restype = ctypes.c_uint64
        self._launch = self._so.cuda_on_cpu_launch
        self._launch.argtypes = (ctypes.POINTER(_Launch), ctypes.c_int)
        self._message = ctypes.create_string_buffer(4096)
        entries, num_kernels = self._so.cuda_on_cpu_kernels(), self._so.cuda_on_cpu_num_kernels()
        # What each kernel takes, deduced by the compiler from its type.
        self.parameters = [_parameters(entries[i]) for i in range(num_kernels)]
        # Of __shared__ variables of fixed size, less at most 127; known of a lone kernel.
        static_bytes = int(self._so.cuda_on_cpu_static_shared_bytes()) // 128 * 128
        self.static_shared_bytes = static_bytes if num_kernels == 1 else 0

    def arena_bytes(self) -> int:
        return int(self._so.cuda_on_cpu_arena_bytes())

    def launch(
        self,
        index: int,
        grid: tuple[int, ...],
        *,
        block: tuple[int, ...],
        args: list[ctypes.Array[ctypes.c_char]],
        shared_bytes: int,
        arena: Arena,
        order: str | int,
        withheld: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Run kernel `index` over the whole grid; KernelFault when it did what CUDA forbids.

        With `withheld`, addresses and sizes that the kernel before has written, it is launched to
        overlap with that: what is there is NaN to it until it waits.
        """
        spans = withheld or ()
        kept = [ctypes.create_string_buffer(size) for _, size in spans]
        ranges = (_Withheld * len(spans))(
            *((*span, ctypes.addressof(copy)) for span, copy in zip(spans, kept, strict=True))
        )
        slots = (ctypes.c_void_p * (len(args) or 1))(*(ctypes.addressof(a) for a in args))
        launch = _Launch(
            grid=(ctypes.c_uint * 3)(*grid),
            block=(ctypes.c_uint * 3)(*block),
            shared_bytes=shared_bytes,
            order=ORDERS[order] if isinstance(order, str) else 2,
            seed=0 if isinstance(order, str) else order,
            args=ctypes.addressof(slots),
            arena=arena.address,
            page_bytes=mmap.PAGESIZE,
            message=ctypes.cast(self._message, ctypes.c_char_p),
            message_bytes=len(self._message),
            overlaps=int(withheld is not None),
            num_withheld=len(spans),
            withheld=ranges,
        )
        if not self._launch(ctypes.byref(launch), index):
            raise KernelFault(self._message.value.decode())


def _parameters(entry: _Entry) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            num_bytes=p.bytes,
            kind=p.kind.decode(),
            pointee_kind=p.pointee_kind.decode().strip("\0"),
            pointee_is_const=p.pointee_is_const,
            pointee_bytes=p.pointee_bytes,
        )
        for p in (entry.parameters[i] for i in range(entry.num_parameters))
    )
