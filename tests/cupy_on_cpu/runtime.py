"""The CUDA runtime as its manual has it: as much of it as CuPy calls for this project.

A call that is not here reaches the real runtime, which fails without a driver.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import numpy as np

from tests.cuda_on_cpu.arguments import least_shared_bytes
from tests.cuda_on_cpu.memory import POISON
from tests.cupy_on_cpu import architecture
from tests.cupy_on_cpu.machine import (
    CAPTURE_UNSUPPORTED,
    INT,
    INVALID_VALUE,
    NOT_READY,
    POINTER,
    SIZE,
    TOTAL_BYTES,
    UINT,
    CudaError,
    Machine,
    Signature,
    Work,
    write,
    write_int,
)

NAME = b"cupy-on-cpu\0"
ARCH = architecture()
VERSION = 12090
MAX_SHARED_BYTES = least_shared_bytes(ARCH)
# cudaDeviceAttr: multiprocessors, most shared memory of a block, compute capability
_ATTRIBUTES = {16: 8, 97: MAX_SHARED_BYTES, 75: ARCH // 10, 76: ARCH % 10}
_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_RELAXED = 2  # cudaStreamCaptureMode


class _Event:
    reached = True


class Runtime:
    """The functions whose names begin with cuda."""

    CALLS: ClassVar[dict[str, Signature]] = {
        "cudaGetDeviceCount": ("get_device_count", (POINTER,)),
        "cudaGetDevice": ("get_device", (POINTER,)),
        "cudaSetDevice": ("set_device", (INT,)),
        "cudaDeviceGetAttribute": ("get_attribute", (POINTER, INT, INT)),
        "cudaGetDeviceProperties": ("get_properties", (POINTER, INT)),
        "cudaGetDeviceProperties_v2": ("get_properties", (POINTER, INT)),  # not in CUDA 13
        "cudaDriverGetVersion": ("get_version", (POINTER,)),
        "cudaRuntimeGetVersion": ("get_version", (POINTER,)),
        "cudaMemGetInfo": ("get_memory_info", (POINTER, POINTER)),
        "cudaMalloc": ("malloc", (POINTER, SIZE)),
        "cudaFree": ("free", (POINTER,)),
        "cudaHostAlloc": ("host_alloc", (POINTER, SIZE, UINT)),
        "cudaFreeHost": ("host_free", (POINTER,)),
        "cudaMemcpy": ("copy", (POINTER, POINTER, SIZE, INT)),
        "cudaMemcpyAsync": ("copy_async", (POINTER, POINTER, SIZE, INT, POINTER)),
        "cudaDeviceSynchronize": ("synchronize", ()),
        "cudaStreamCreate": ("create", (POINTER,)),
        "cudaStreamCreateWithFlags": ("create", (POINTER, UINT)),
        "cudaStreamCreateWithPriority": ("create", (POINTER, UINT, INT)),
        "cudaStreamDestroy": ("destroy", (POINTER,)),
        "cudaStreamSynchronize": ("synchronize", (POINTER,)),
        "cudaStreamBeginCapture": ("begin_capture", (POINTER, INT)),
        "cudaStreamEndCapture": ("end_capture", (POINTER, POINTER)),
        "cudaStreamIsCapturing": ("is_capturing", (POINTER, POINTER)),
        "cudaEventCreateWithFlags": ("event_create", (POINTER, UINT)),
        "cudaEventDestroy": ("destroy", (POINTER,)),
        "cudaEventRecord": ("event_record", (POINTER, POINTER)),
        "cudaEventQuery": ("event_query", (POINTER,)),
        "cudaEventSynchronize": ("event_synchronize", (POINTER,)),
        "cudaGraphInstantiate": ("instantiate", (POINTER, POINTER, ctypes.c_ulonglong)),
        "cudaGraphLaunch": ("launch_graph", (POINTER, POINTER)),
        "cudaGraphDestroy": ("destroy", (POINTER,)),
        "cudaGraphExecDestroy": ("destroy", (POINTER,)),
    }

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pinned: dict[int, np.ndarray] = {}
        self._strict = True

    def get_device_count(self, count: int) -> None:
        write_int(count, 1)

    def get_device(self, device: int) -> None:
        write_int(device, 0)

    def set_device(self, device: int) -> None:
        if device:
            raise CudaError(INVALID_VALUE)

    def get_attribute(self, value: int, attribute: int, device: int) -> None:
        write_int(value, _ATTRIBUTES.get(attribute, 0))

    def get_properties(self, properties: int, device: int) -> None:
        """The name, which comes first; nobody asks for the rest."""
        ctypes.memmove(properties, NAME, len(NAME))

    def get_version(self, version: int) -> None:
        write_int(version, VERSION)

    def get_memory_info(self, free: int, total: int) -> None:
        write(free, TOTAL_BYTES - self._machine.used_bytes)
        write(total, TOTAL_BYTES)

    def malloc(self, out: int, size: int) -> None:
        write(out, self._machine.allocate(size))

    def free(self, address: int) -> None:
        """It waits for all that is queued, which a relaxed capture does not forbid."""
        if self._strict:
            self._machine.wait()
        self._machine.finish()
        if address:
            self._machine.release(address)

    def host_alloc(self, out: int, size: int, flags: int) -> None:
        memory = np.full(size, POISON, np.uint8)
        self._pinned[int(memory.ctypes.data)] = memory
        write(out, int(memory.ctypes.data))

    def host_free(self, address: int) -> None:
        self._machine.wait()
        del self._pinned[address]

    def _is_pinned(self, address: int) -> bool:
        return any(start <= address < start + m.size for start, m in self._pinned.items())

    def copy_async(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        """Memory that is not page-locked is read before the call returns, or written by then."""
        if stream in self._machine.captures:
            raise CudaError(CAPTURE_UNSUPPORTED)
        on_device = {_TO_DEVICE: [to], _TO_HOST: [source], _ON_DEVICE: [to, source]}[kind]
        if not all(self._machine.owns(address, size) for address in on_device):
            raise CudaError(INVALID_VALUE)
        if kind == _TO_DEVICE and not self._is_pinned(source):
            staged = ctypes.string_at(source, size)
            self._machine.add(stream, lambda: ctypes.memmove(to, staged, size))
            return
        self._machine.add(stream, lambda: ctypes.memmove(to, source, size))
        if kind == _TO_HOST and not self._is_pinned(to):
            self._machine.wait()

    def copy(self, to: int, source: int, size: int, kind: int) -> None:
        self.copy_async(to, source, size, kind, 0)
        self._machine.wait()

    def create(self, out: int, *options: int) -> None:
        self._machine.new_handle(object(), out)

    def destroy(self, handle: int) -> None:
        self._machine.drop_handle(handle)

    def synchronize(self, *stream: int) -> None:
        self._machine.wait()

    def begin_capture(self, stream: int, mode: int) -> None:
        if not stream or stream in self._machine.captures:
            raise CudaError(INVALID_VALUE)
        self._strict = mode != _RELAXED
        self._machine.captures[stream] = []

    def end_capture(self, stream: int, out: int) -> None:
        self._machine.new_handle(self._machine.captures.pop(stream), out)

    def is_capturing(self, stream: int, status: int) -> None:
        write_int(status, int(stream in self._machine.captures))

    def event_create(self, out: int, flags: int) -> None:
        self._machine.new_handle(_Event(), out)

    def event_record(self, handle: int, stream: int) -> None:
        event: _Event = self._machine.thing(handle)
        event.reached = False
        self._machine.add(stream, lambda: setattr(event, "reached", True))

    def event_query(self, event: int) -> None:
        if not self._machine.thing(event).reached:
            raise CudaError(NOT_READY)

    def event_synchronize(self, event: int) -> None:
        if not self._machine.thing(event).reached:
            self._machine.wait()

    def instantiate(self, out: int, graph: int, *options: Any) -> None:
        self._machine.new_handle(list(self._machine.thing(graph)), out)

    def launch_graph(self, graph: int, stream: int) -> None:
        launches: list[Work] = self._machine.thing(graph)
        self._machine.add(stream, lambda: [launch() for launch in launches])
