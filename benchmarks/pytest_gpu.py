"""A pytest plugin for GPU runs: writes each outcome down at once, and makes fresh memory telling.

`-p benchmarks.pytest_gpu`, with the variables below. What a killed run had done is not lost.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

OUTCOMES = "LLAMA_CU_OUTCOMES"  # a file, one JSON line for each test
# "poisoned": fresh arrays hold NaN, so that what a kernel forgot to write shows. "exact": every
# array is an allocation of its own, so that compute-sanitizer sees the first byte past its end.
GPU_MEMORY = "LLAMA_CU_GPU_MEMORY"

POISON = 0xFF  # NaN in every float format, -1 in every integer


def pytest_configure() -> None:
    memory = os.environ.get(GPU_MEMORY)
    if memory is None:
        return
    import cupy

    cupy.cuda.set_allocator(_poisoned if memory == "poisoned" else None)


def _poisoned(num_bytes: int) -> Any:
    import cupy

    memory = cupy.get_default_memory_pool().malloc(num_bytes)
    if num_bytes:
        memory.memset_async(POISON, num_bytes)
    return memory


def pytest_runtest_logreport(report: Any) -> None:
    # A test that is skipped or broken in its setup has no call.
    if OUTCOMES not in os.environ or (report.when != "call" and report.passed):
        return
    outcome = "failed" if report.failed else report.outcome
    with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
        print(json.dumps({"test": report.nodeid, "outcome": outcome}), file=file)
