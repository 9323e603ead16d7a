"""What a launch may pass. CuPy checks none of this; here every mistake is an error."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.cuda_on_cpu.library import LaunchError, Parameter
from tests.cuda_on_cpu.memory import Memory

MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
# Of a kernel without __launch_bounds__. The compiler gives a thread up to 255 registers, and a
# multiprocessor has 64 Ki of them: past 256 threads a kernel must say what it needs.
UNBOUNDED_THREADS = 256


def least_shared_bytes(arch: int) -> int:
    """The dynamic shared memory that a block has on every GPU of sm_`arch` or newer."""
    return (99 if arch >= 80 else 64) * 1024  # sm_86, sm_89 and sm_120 have 99 KiB


_KIND_NAMES = {
    "i": "signed integer",
    "u": "unsigned integer",
    "b": "bool",
    "f": "float",
    "h": "__half",
    "n": "__nv_bfloat16",
    "v": "struct",
    "p": "pointer",
}


def dtype_kind(dtype: np.dtype[Any]) -> str:
    """The kind letter of a NumPy dtype, as shim/signature.h names C types."""
    if dtype == ml_dtypes.bfloat16:
        return "n"
    return "h" if dtype == np.float16 else dtype.kind


def three(what: str, sizes: Sequence[int], *, limits: tuple[int, int, int]) -> tuple[int, int, int]:
    """Grid or block as three extents; LaunchError beyond what CUDA allows."""
    if not 1 <= len(sizes) <= 3:
        raise LaunchError(f"{what} must have 1 to 3 extents, got {tuple(sizes)}")
    if not all(isinstance(size, (int, np.integer)) for size in sizes):
        raise LaunchError(f"{what} must be integers, got {tuple(sizes)}")
    for axis, size, limit in zip("xyz", sizes, limits, strict=False):
        if not 1 <= size <= limit:
            raise LaunchError(f"{what}.{axis} must be in [1, {limit}], got {size}")
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


def launch_bound(source: Path, name: str) -> int | None:
    """The threads that a kernel's __launch_bounds__ allows; None where it states none.

    Its first argument may be a product of numbers and of constants of the file.
    """
    text = source.read_text()
    texts = [text, *(path.read_text() for path in source.parent.glob("*.cuh"))]
    constants = dict(re.findall(r"constexpr int (\w+) = (\d+);", "\n".join(texts)))
    found = re.search(rf"__launch_bounds__\(([^,)]+)[^)]*\)\s*{name}\(", text)
    factors = found[1].split("*") if found else ()
    sizes = [int(constants.get(factor.strip(), factor)) for factor in factors]
    return math.prod(sizes) if sizes else None


def pack(
    parameters: Sequence[Parameter], args: Sequence[Any], *, memory: Memory
) -> list[ctypes.Array[ctypes.c_char]]:
    """The bytes of each argument; LaunchError naming the first that does not fit its parameter."""
    if len(args) != len(parameters):
        raise LaunchError(f"the kernel takes {len(parameters)} arguments, got {len(args)}")
    packed = []
    for i, (parameter, arg) in enumerate(zip(parameters, args, strict=True)):
        try:
            packed.append(_pack_one(parameter, arg, memory=memory))
        except LaunchError as error:
            raise LaunchError(f"argument {i}: {error}") from None
    return packed


def _pack_one(parameter: Parameter, arg: Any, *, memory: Memory) -> ctypes.Array[ctypes.c_char]:
    if parameter.kind == "p":
        address = 0 if arg is None else _check_array(parameter, arg, memory=memory)
        return ctypes.create_string_buffer(address.to_bytes(8, "little"), 8)
    if not isinstance(arg, np.generic):
        wanted = f"{8 * parameter.num_bytes}-bit {_KIND_NAMES[parameter.kind]}"
        raise LaunchError(f"want a NumPy scalar ({wanted}), got {type(arg).__name__} {arg!r:.60}")
    kind = dtype_kind(arg.dtype)
    if kind != parameter.kind or arg.dtype.itemsize != parameter.num_bytes:
        wanted = f"{_KIND_NAMES[parameter.kind]} of {parameter.num_bytes} bytes"
        raise LaunchError(f"want a {wanted}, got {arg.dtype} {arg!r}")
    return ctypes.create_string_buffer(arg.tobytes(), parameter.num_bytes)


def _check_array(parameter: Parameter, arg: Any, *, memory: Memory) -> int:
    if not isinstance(arg, np.ndarray):
        raise LaunchError(f"want a device array, got {type(arg).__name__} {arg!r:.60}")
    if not memory.owns(arg):
        raise LaunchError("the array is not in device memory: upload it")
    address = int(arg.ctypes.data)
    kind, itemsize = dtype_kind(arg.dtype), arg.dtype.itemsize
    if parameter.pointee_kind == "v":  # void, a vector or a struct: any elements, but aligned
        align = parameter.pointee_bytes & -parameter.pointee_bytes
        if address % min(align, 16):
            raise LaunchError(f"address {address:#x} is not aligned to {min(align, 16)} bytes")
        return address
    kinds = {kind, parameter.pointee_kind}
    same = len(kinds) == 1 or kinds <= {"i", "u", "b"}
    if not same or itemsize != parameter.pointee_bytes:
        wanted = f"{_KIND_NAMES[parameter.pointee_kind]} of {parameter.pointee_bytes} bytes"
        raise LaunchError(f"the pointer is to {wanted}, the array is {arg.dtype}")
    return address
