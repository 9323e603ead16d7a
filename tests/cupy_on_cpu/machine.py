"""What the three libraries share: memory, the queue of work, handles, and how C calls them."""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np

from tests.cuda_on_cpu.memory import ALIGNMENT, POISON

TOTAL_BYTES = 1 << 28

INVALID_VALUE, OUT_OF_MEMORY, NOT_FOUND, NOT_READY = 1, 2, 500, 600  # cudaError_t
NOT_SUPPORTED, CAPTURE_UNSUPPORTED, UNKNOWN = 801, 900, 999

INT, UINT, SIZE, POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p

Work = Callable[[], object]
Signature = tuple[str, tuple[Any, ...]]
"""The method that answers a C function, and the types of its arguments."""


class CudaError(Exception):
    """What a call answers if not success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status


class Exports(Protocol):
    """A library: C functions by name."""

    CALLS: ClassVar[dict[str, Signature]]


class Machine:
    """Memory, and work that is done when somebody waits for it, in the order of its queueing.

    So a host that reads or overwrites something too early is wrong for sure. Whatever the stream,
    there is one queue; a stream that is captured has another.
    """

    def __init__(self) -> None:
        self.captures: dict[int, list[Work]] = {}
        self.used_bytes = 0
        self._waiting: list[Work] = []
        self._lock = threading.RLock()
        self._handles: dict[int, Any] = {}
        self._memory: dict[int, np.ndarray] = {}
        self._starts: list[int] = []
        self._exported: list[dict[str, Any]] = []

    def export(self, library: Exports) -> dict[str, Any]:
        """The library's functions as C calls them, one at a time; they live as long as this."""
        functions = {
            name: ctypes.CFUNCTYPE(ctypes.c_int, *types)(self._guarded(getattr(library, method)))
            for name, (method, types) in library.CALLS.items()
        }
        self._exported.append(functions)
        return functions

    def _guarded(self, method: Callable[..., None]) -> Callable[..., int]:
        def call(*args: Any) -> int:
            try:
                with self._lock:
                    method(*(0 if arg is None else arg for arg in args))
            except CudaError as error:
                return error.status
            except BaseException:  # nothing can be raised through C: say it, and fail
                traceback.print_exc(file=sys.stderr)
                return UNKNOWN
            return 0

        return call

    def add(self, stream: int, work: Work) -> None:
        """Queue work, or record it where the stream is captured."""
        self.captures.get(stream, self._waiting).append(work)

    def wait(self) -> None:
        """Do all that was queued."""
        if self.captures:
            raise CudaError(CAPTURE_UNSUPPORTED)
        self.finish()

    def finish(self) -> None:
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()

    def new_handle(self, thing: Any, out: int) -> None:
        """Write a handle of this thing to an address."""
        self._handles[id(thing)] = thing
        write(out, id(thing))

    def thing(self, handle: int) -> Any:
        if handle not in self._handles:
            raise CudaError(INVALID_VALUE)
        return self._handles[handle]

    def drop_handle(self, handle: int) -> None:
        self.thing(handle)
        del self._handles[handle]

    def allocate(self, size: int) -> int:
        """The address of new memory, full of POISON."""
        if self.used_bytes + size > TOTAL_BYTES:
            raise CudaError(OUT_OF_MEMORY)
        raw = np.full(size + ALIGNMENT, POISON, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        memory = raw[start : start + size]
        self.used_bytes += size
        address = int(memory.ctypes.data)
        self._memory[address] = memory
        self._starts = sorted(self._memory)
        return address

    def release(self, address: int) -> None:
        self.used_bytes -= self._memory.pop(address).size
        self._starts = sorted(self._memory)

    def owns(self, address: int, size: int = 1) -> bool:
        """Whether these bytes lie in one allocation."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return False
        start = self._starts[index]
        return address + size <= start + self._memory[start].size


def write(address: int, value: int) -> None:
    """A pointer, or a size."""
    ctypes.c_uint64.from_address(address).value = value


def write_int(address: int, value: int) -> None:
    ctypes.c_int.from_address(address).value = value
