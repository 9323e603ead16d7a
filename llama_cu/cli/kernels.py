"""llama-cu kernels: compile everything for one architecture and show what it uses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any

from llama_cu.cli.progress import ProgressBar
from llama_cu.ops.cuda_kernels import compile_cubin, supported_archs
from llama_cu.ops.cuda_templates import Specialisation, specialisations

Row = dict[str, Any]

_COLUMNS = {
    "registers": "registers",
    "spill_bytes": "spill B",
    "stack_bytes": "stack B",
    "static_shared_bytes": "shared B",
    "warps": "warps/SM",
}

_REGISTERS = 1 << 16  # of a multiprocessor, in four parts that share no warp
_MOST_WARPS = {75: 32, 80: 64, 90: 64, 100: 64, 103: 64}
_MOST_WARPS_ELSEWHERE = 48


def show_kernels(arch: str, *, as_json: bool) -> None:
    """Print a table, or JSON. Raises ValueError for an architecture that NVRTC does not know."""
    rows = measure(parse_arch(arch))
    if as_json:
        print(json.dumps({"arch": arch, "kernels": rows}, indent=1))
    else:
        print("\n".join(table(rows)))


def parse_arch(arch: str) -> int:
    """90 from "sm_90" (or "90")."""
    known = supported_archs()
    number = arch.removeprefix("sm_")
    if not number.isdecimal() or int(number) not in known:
        names = ", ".join(f"sm_{value}" for value in known)
        raise ValueError(f"--arch must be one of {names}, got {arch!r}")
    return int(number)


def measure(arch: int) -> list[Row]:
    """Compile every specialisation for sm_`arch`; what each one uses, in the kernels' order."""
    wanted = specialisations(arch)
    rows: list[Row] = []
    with ProgressBar() as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for compiled in pool.map(partial(_compile, arch), _programs(wanted)):
            rows += compiled
            progress(f"compiled {compiled[-1]['file']}.cu", len(rows), len(wanted))
    return rows


def _compile(arch: int, program: tuple[str, list[str]]) -> list[Row]:
    file, names = program
    resources = compile_cubin(file, names, arch=arch).resources
    return [
        {
            "file": file,
            "kernel": name,
            **asdict(resources[name]),
            "warps": resident_warps(resources[name].registers, arch=arch),
        }
        for name in names
    ]


def resident_warps(registers: int, *, arch: int) -> int:
    """Warps that a multiprocessor holds at a time, by the registers of a thread.

    Shared memory and the size of a block may leave fewer. Table "Technical Specifications per
    Compute Capability" of the CUDA programming guide; a warp's registers come in 256s.
    """
    of_a_warp = -(-32 * registers // 256) * 256
    return min(_MOST_WARPS.get(arch, _MOST_WARPS_ELSEWHERE), 4 * (_REGISTERS // 4 // of_a_warp))


def table(rows: list[Row]) -> list[str]:
    """Aligned lines, one a kernel, and the totals."""
    width = max([len("kernel"), *(len(row["kernel"]) for row in rows)])
    lines = [" ".join([f"{'kernel':{width}}", *(f"{title:>9}" for title in _COLUMNS.values())])]
    for row in rows:
        numbers = (f"{row[column]:>9}" for column in _COLUMNS)
        lines.append(" ".join([f"{row['kernel']:{width}}", *numbers]))
    spilling = sum(row["spill_bytes"] > 0 for row in rows)
    return [*lines, f"{len(rows)} kernels, {spilling} with spills"]


def _programs(wanted: list[Specialisation]) -> Iterator[tuple[str, list[str]]]:
    """What is compiled together: neighbours of one file with the same head size."""
    for (file, _), group in groupby(wanted, key=lambda s: (s.file, s.head_dim)):
        yield file, [specialisation.expression for specialisation in group]
