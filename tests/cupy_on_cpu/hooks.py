"""Functions of a loaded library replaced by functions of ours.

CuPy's wheels hold the CUDA runtime as a static library, which no loader can exchange. Its symbols
are there, so that the first instruction of each function can become a jump.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SYMTAB = 2  # sh_type of an ELF section
_JUMP = b"\x49\xbb%b\x41\xff\xe3"  # mov r11, address; jmp r11


class NotPatchable(Exception):
    """This machine or this library cannot have its functions replaced."""


def replace_functions(library: Path, functions: Mapping[str, Any]) -> None:
    """From now on a call of one of these names in a loaded library reaches the ctypes callback.

    The callbacks must live as long as the process. NotPatchable on other processors than x86-64,
    without symbols, or where one is missing.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotPatchable(f"functions are replaced on x86-64 Linux only, not {platform.machine()}")
    offsets = symbols(library)
    # Another version of a function is called where the library has it.
    functions = {n: f for n, f in functions.items() if n in offsets or not n.endswith("_v2")}
    missing = [name for name in functions if name not in offsets]
    if missing:
        raise NotPatchable(f"{library.name} has no symbol {', '.join(missing)}")
    base = _base_address(library)
    for name, function in functions.items():
        target = ctypes.cast(function, ctypes.c_void_p).value
        assert target is not None
        _write_code(base + offsets[name], _JUMP % struct.pack("<Q", target))


def symbols(library: Path) -> dict[str, int]:
    """Every defined symbol of an ELF file, local ones too, and its address in the file."""
    image = library.read_bytes()
    (sections_at,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", image, sections_at + i * size) for i in range(count)
    ]
    found = {}
    for header in headers:
        if header[1] != _SYMTAB:
            continue
        names_at = headers[header[6]][4]
        for at in range(header[4], header[4] + header[5], header[9]):
            name_at, _, _, section, address, _ = struct.unpack_from("<IBBHQQ", image, at)
            if section:
                begin = names_at + name_at
                found[image[begin : image.index(b"\0", begin)].decode()] = address
    return found


def _base_address(library: Path) -> int:
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and Path(path[0]) == library.resolve() and int(offset, 16) == 0:
            return int(addresses.split("-")[0], 16)
    raise NotPatchable(f"{library.name} is not loaded")


def _write_code(address: int, code: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    start = address // mmap.PAGESIZE * mmap.PAGESIZE
    length = address + len(code) - start
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), everything):
        raise NotPatchable(f"code cannot be changed here (errno {ctypes.get_errno()})")
    ctypes.memmove(address, code, len(code))
