"""What instructions a cubin has, read from its bytes: as much as the tests ask, no disassembler.

From sm_75 on an instruction has 128 bits: the lowest 12 say which it is, and of a load or store
bits 73 to 75 say how wide. The numbers were read off nvdisasm's listings of our own kernels for
sm_75 to sm_120.
"""

from __future__ import annotations

import struct
from collections import Counter

_OPCODES = {
    0x381: "LDG",
    0x981: "LDG",
    0x386: "STG",
    0x986: "STG",
    0x984: "LDS",
    0x983: "LDL",
    0x387: "STL",
    0x23C: "HMMA",
    0x83B: "LDSM",
    0xFAE: "LDGSTS",
}
_SIZED = ("LDG", "STG", "LDS")
_BITS = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 64, 6: 128}


def instructions(cubin: bytes, symbol: str) -> Counter[str]:
    """How often each known instruction occurs in a kernel, as LDG.128, HMMA...; KeyError without
    the kernel.
    """
    code = _sections(cubin)[f".text.{symbol}"]
    counts: Counter[str] = Counter()
    for low, high in struct.iter_unpack("<QQ", code):
        name = _OPCODES.get(low & 0xFFF)
        if name is not None:
            counts[f"{name}.{_BITS[high >> 9 & 7]}" if name in _SIZED else name] += 1
    return counts


def _sections(elf: bytes) -> dict[str, bytes]:
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", elf)
    offset, size, count, names_at = header[6], header[11], header[12], header[13]
    rows = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + i * size) for i in range(count)]
    names = elf[rows[names_at][4] :]
    return {
        names[row[0] : names.index(b"\0", row[0])].decode(): elf[row[4] : row[4] + row[5]]
        for row in rows
    }
