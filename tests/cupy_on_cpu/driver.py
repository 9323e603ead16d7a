"""The CUDA driver as its manual has it: modules and launches."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from llama_cu.ops.cuda_kernels import KERNEL_DIR
from llama_cu.ops.cuda_templates import Specialisation, overlaps
from tests.cuda_on_cpu.arguments import (
    MAX_BLOCK,
    MAX_GRID,
    MAX_THREADS,
    UNBOUNDED_THREADS,
    launch_bound,
)
from tests.cuda_on_cpu.build import build
from tests.cuda_on_cpu.bundles import bundle
from tests.cuda_on_cpu.library import Arena, Library
from tests.cupy_on_cpu.machine import (
    INT,
    INVALID_VALUE,
    NOT_FOUND,
    NOT_SUPPORTED,
    POINTER,
    UINT,
    CudaError,
    Machine,
    Signature,
    write,
    write_int,
)
from tests.cupy_on_cpu.runtime import ARCH, MAX_SHARED_BYTES

_UNASKED_SHARED_BYTES = 48 * 1024  # static and dynamic together; more must be asked for
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
_SHARED_SIZE_BYTES, _MAX_DYNAMIC_SHARED_SIZE_BYTES = 1, 8  # CUfunction_attribute


@dataclass
class _Function:
    label: str
    library: Library
    index: int
    max_threads: int
    max_shared_bytes: int


@dataclass
class _Module:
    holds: Specialisation
    functions: dict[bytes, _Function] = field(default_factory=dict)


class Driver:
    """The functions whose names begin with cu; `specialisations` has what a cubin's path holds."""

    CALLS: ClassVar[dict[str, Signature]] = {
        "cuGetErrorName": ("describe_error", (INT, POINTER)),
        "cuGetErrorString": ("describe_error", (INT, POINTER)),
        "cuCtxGetCurrent": ("get_context", (POINTER,)),
        "cuModuleLoad": ("module_load", (POINTER, ctypes.c_char_p)),
        "cuModuleLoadData": ("module_load_data", (POINTER, POINTER)),
        "cuModuleUnload": ("module_unload", (POINTER,)),
        "cuModuleGetFunction": ("get_function", (POINTER, POINTER, ctypes.c_char_p)),
        "cuFuncGetAttribute": ("get_attribute", (POINTER, INT, POINTER)),
        "cuFuncSetAttribute": ("set_attribute", (POINTER, INT, INT)),
        "cuLaunchKernelEx": ("launch_extended", (POINTER,) * 4),
        "cuLaunchKernel": ("launch", (POINTER, *(UINT,) * 7, POINTER, POINTER, POINTER)),
    }

    def __init__(self, machine: Machine) -> None:
        self.specialisations: dict[str, Specialisation] = {}
        self._machine = machine
        self._libraries: dict[Path, Library] = {}
        self._arena: Arena | None = None
        self._texts: dict[int, Any] = {}

    def describe_error(self, status: int, out: int) -> None:
        text = ctypes.create_string_buffer(b"CUDA error %d" % status)
        write(out, ctypes.addressof(self._texts.setdefault(status, text)))

    def get_context(self, out: int) -> None:
        write(out, 1)

    def module_load(self, out: int, path: bytes) -> None:
        self._machine.new_handle(_Module(self.specialisations[path.decode()]), out)

    def module_load_data(self, out: int, image: int) -> None:
        """CuPy wants to run a kernel of its own, which it compiles for seconds: never ours."""
        raise CudaError(NOT_SUPPORTED)

    def module_unload(self, module: int) -> None:
        self._machine.drop_handle(module)

    def get_function(self, out: int, module: int, name: bytes) -> None:
        """The same one each time: what was set of it holds for all who ask."""
        loaded: _Module = self._machine.thing(module)
        if loaded.holds.name.encode() not in name:
            raise CudaError(NOT_FOUND)
        if name not in loaded.functions:
            loaded.functions[name] = self._function(loaded.holds)
        self._machine.new_handle(loaded.functions[name], out)

    def _function(self, wanted: Specialisation) -> _Function:
        source = KERNEL_DIR / f"{wanted.file}.cu"
        together = bundle(wanted, KERNEL_DIR, arch=ARCH)
        path = build(source, together, arch=ARCH)
        if path not in self._libraries:
            self._libraries[path] = Library(path)
        library = self._libraries[path]
        self._arena = self._arena or Arena(library.arena_bytes())
        return _Function(
            label=f"{wanted.file}.cu: {wanted.expression}",
            library=library,
            index=together.index(wanted.expression),
            max_threads=launch_bound(source, wanted.name) or UNBOUNDED_THREADS,
            max_shared_bytes=_UNASKED_SHARED_BYTES - library.static_shared_bytes,
        )

    def get_attribute(self, out: int, attribute: int, handle: int) -> None:
        function: _Function = self._machine.thing(handle)
        if attribute != _SHARED_SIZE_BYTES:
            raise CudaError(INVALID_VALUE)
        write_int(out, function.library.static_shared_bytes)

    def set_attribute(self, handle: int, attribute: int, value: int) -> None:
        function: _Function = self._machine.thing(handle)
        most = MAX_SHARED_BYTES - function.library.static_shared_bytes
        if attribute != _MAX_DYNAMIC_SHARED_SIZE_BYTES or not 0 <= value <= most:
            raise CudaError(INVALID_VALUE)
        function.max_shared_bytes = value  # also where it was more

    def launch_extended(self, config: int, function: int, arguments: int, extra: int) -> None:
        """CUlaunchConfig: grid, block, shared memory, stream, attributes, how many."""
        sizes = (ctypes.c_uint * 7).from_address(config)
        stream, attributes = (ctypes.c_uint64 * 2).from_address(config + 32)
        count = ctypes.c_uint.from_address(config + 48).value
        kind, _, value = (ctypes.c_int * 3).from_address(attributes)
        if (count, kind, value) != (1, _PROGRAMMATIC_STREAM_SERIALIZATION, 1):
            raise CudaError(NOT_SUPPORTED)
        label = self._machine.thing(function).label
        if not overlaps(label.partition(": ")[2].partition("<")[0]):
            raise CudaError(INVALID_VALUE)  # a GPU would run it too early
        self.launch(function, *sizes, stream, arguments, extra)

    def launch(self, handle: int, *launch: int) -> None:
        grid, block = launch[0:3], launch[3:6]
        shared_bytes, stream, arguments, extra = launch[6:]
        function: _Function = self._machine.thing(handle)
        fits = [n <= most for n, most in zip((*grid, *block), MAX_GRID + MAX_BLOCK, strict=True)]
        fits += [min(*grid, *block) > 0, shared_bytes <= function.max_shared_bytes, not extra]
        if not all(fits) or math.prod(block) > min(function.max_threads, MAX_THREADS):
            what = f"grid {grid}, block {block}, {shared_bytes} bytes of shared memory"
            print(f"{function.label}: refused: {what}", file=sys.stderr)
            raise CudaError(INVALID_VALUE)
        parameters = function.library.parameters[function.index]
        slots = (ctypes.c_void_p * len(parameters)).from_address(arguments)
        values = [
            ctypes.string_at(slot, parameter.num_bytes)
            for slot, parameter in zip(slots, parameters, strict=True)
        ]
        pointers = [
            int.from_bytes(value, "little")
            for value, parameter in zip(values, parameters, strict=True)
            if parameter.kind == "p"
        ]

        def run() -> None:
            self._run(function, values, pointers, grid=grid, block=block, shared=shared_bytes)

        self._machine.add(stream, run)

    def _run(
        self,
        function: _Function,
        values: Sequence[bytes],
        pointers: Sequence[int],
        *,
        grid: Any,
        block: Any,
        shared: int,
    ) -> None:
        wild = [hex(at) for at in pointers if at and not self._machine.owns(at)]
        if wild:
            raise ValueError(f"{function.label}: not in device memory: {', '.join(wild)}")
        assert self._arena is not None
        function.library.launch(
            function.index,
            grid,
            block=block,
            args=[ctypes.create_string_buffer(value, len(value)) for value in values],
            shared_bytes=shared,
            arena=self._arena,
            order="forward",
        )
