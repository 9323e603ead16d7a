"""Runs Python with AddressSanitizer: python -m tests.cuda_on_cpu.sanitized -m pytest tests/...

The sanitizer must be in the process before anything else, so a new process is started with it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cuda_on_cpu.build import NoCompiler, find_compiler
from tests.cuda_on_cpu.device import SANITIZE_VARIABLE

# The interpreter itself leaks and is not ours to judge. Fake stacks would move every local of
# every fiber to the heap.
_ASAN_OPTIONS = "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0:exitcode=99"
_UBSAN_OPTIONS = "print_stacktrace=1:halt_on_error=1"


def sanitizer_library() -> Path:
    """AddressSanitizer's runtime of the host compiler; NoCompiler where it brings none."""
    compiler = find_compiler()
    clang_names = (f"libclang_rt.asan-{platform.machine()}.so", "libclang_rt.asan.so")
    for name in ("libasan.so",) if compiler.is_gcc else clang_names:
        command = [*compiler.command, f"-print-file-name={name}"]
        found = Path(subprocess.run(command, capture_output=True, text=True).stdout.strip())
        if found.is_absolute() and found.is_file():
            return found.resolve()
    raise NoCompiler(f"{' '.join(compiler.command)} brings no AddressSanitizer runtime (g++ does)")


def environment() -> dict[str, str]:
    """Variables for a process in which CpuDevice builds and runs with sanitizers."""
    library = str(sanitizer_library())
    return {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": _ASAN_OPTIONS,
        "UBSAN_OPTIONS": _UBSAN_OPTIONS,
        "PYTHONMALLOC": "malloc",
        SANITIZE_VARIABLE: "1",
    }


def run_python(args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`python args...` under the sanitizers, with its output captured."""
    command = [sys.executable, *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def main(args: Sequence[str]) -> int:
    """`python args...` under the sanitizers; their reports last.

    Under pytest-xdist, what a worker writes as it dies is lost: reports go to files.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = environment()
        variables["ASAN_OPTIONS"] += f":log_path={folder}/report"
        finished = subprocess.run([sys.executable, *args], env=variables)
        for report in sorted(Path(folder).iterdir()):
            print(report.read_text(errors="replace"), file=sys.stderr)
        return finished.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
