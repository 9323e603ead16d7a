"""CuPy itself without a GPU: its wheel as it is, on a CUDA of ours.

`install()` replaces the CUDA runtime in CuPy's library and gives it a driver and a cuBLAS, for the
whole process. Then the tests that are marked `gpu` find a device: memory pools, streams, graphs,
arrays and launches are CuPy's own, the machine code is NVRTC's, and what a launch runs is the same
kernel compiled for this processor. tests/conftest.py installs it where CUPY_ON_CPU=1 asks for it;
CUPY_ON_CPU=90 asks for a device of that compute capability.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llama_cu.ops.cuda_templates import Specialisation

VARIABLE = "CUPY_ON_CPU"


def is_wanted() -> bool:
    """Whether the environment asks for it."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def architecture() -> int:
    """The compute capability of the device: what the environment says, 80 where it says 1."""
    asked = int(os.environ.get(VARIABLE, "1"))
    return asked if asked > 1 else 80


def install() -> None:
    """From now on this process has one CUDA device. NotPatchable where that cannot be."""
    from cupy_backends.cuda.api import runtime

    from tests.cupy_on_cpu.cublas import Cublas
    from tests.cupy_on_cpu.driver import Driver
    from tests.cupy_on_cpu.hooks import replace_functions
    from tests.cupy_on_cpu.machine import Machine
    from tests.cupy_on_cpu.runtime import Runtime

    machine = Machine()
    driver = Driver(machine)
    replace_functions(Path(runtime.__file__), machine.export(Runtime(machine)))
    _lend_driver(machine.export(driver))
    _lend_cublas(machine.export(Cublas(machine)))
    _remember_cubins(driver.specialisations)


def _lend_driver(functions: Mapping[str, Any]) -> None:
    """CuPy asks ctypes for libcuda when it first calls the driver, and keeps what it gets."""
    from cupy_backends.cuda.api import driver

    from llama_cu.ops import cupy_device

    load = ctypes.CDLL

    def load_ours(name: Any = None, *args: Any, **options: Any) -> Any:
        if name == "libcuda.so.1":
            return SimpleNamespace(**functions)
        return load(name, *args, **options)

    ctypes.CDLL = load_ours  # type: ignore[misc, assignment]
    try:
        driver.ctxGetCurrent()
    finally:
        ctypes.CDLL = load  # type: ignore[misc]
    cupy_device.load_driver = lambda: SimpleNamespace(**functions)  # type: ignore[assignment, return-value]


def _lend_cublas(functions: Mapping[str, Any]) -> None:
    from llama_cu.ops import cupy_device

    refused = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)(lambda status: b"refused")
    library: Any = SimpleNamespace(**functions, cublasGetStatusString=refused)
    cupy_device.load_cublas = lambda: library


def _remember_cubins(specialisations: dict[str, Specialisation]) -> None:
    """A driver reads machine code; ours has to know which kernel it is of."""
    from llama_cu.ops import cupy_device

    cached_cubin = cupy_device.cached_cubin

    def remembering(specialisation: Specialisation, **options: Any) -> tuple[Path, str]:
        path, lowered_name = cached_cubin(specialisation, **options)
        specialisations[str(path)] = specialisation
        return path, lowered_name

    cupy_device.cached_cubin = remembering
