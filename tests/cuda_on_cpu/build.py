"""From kernels/*.cu to a shared object of the host, cached on disk by everything it depends on."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SHIM_DIR = Path(__file__).parent / "shim"

# -ffp-contract=off: nvcc fuses a * b + c where it likes, a host compiler elsewhere, so neither
# choice gives the GPU's last bit; without it every host gives the same one. An fmaf that the
# source asks for stays fused. -fno-strict-aliasing: kernels reinterpret vectors as CUDA allows.
# -fno-gnu-unique: a __shared__ variable of a template belongs to one library, not to all loaded.
# -fno-extern-tls-init: `extern __shared__` needs no constructor call.
_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-pointer-arith",
)
# Every access is checked for its alignment, which a GPU insists on and this processor does not;
# shim/alignment.h reports it. Clang would leave out the copies of whole vectors.
_ALIGNMENT_FLAGS = ("-fsanitize=alignment", "-fno-sanitize-recover=alignment")
_GCC_FLAGS = ("-fno-gnu-unique", "-fno-extern-tls-init", "-Wno-unused-function")
_CLANG_FLAGS = ("-Wno-unused-function", "-Wno-unused-variable")
# Where clang is zig's: it would check for undefined behaviour unasked, and compile its whole C++
# library before the first kernel, which needs none of it.
_CLANG_PLAIN_FLAGS = ("-fno-sanitize=undefined", "-nostdlib++")
_SANITIZE_FLAGS = (
    "-Og",
    "-g1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


class NoCompiler(Exception):
    """This machine has no C++ compiler, not even the one in the package ziglang."""


class BuildError(Exception):
    """The host compiler refused a kernel; the message is the compiler's."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: its command and what it calls itself."""

    command: tuple[str, ...]
    version: str

    @property
    def is_gcc(self) -> bool:
        return "Free Software Foundation" in self.version


@cache
def find_compiler() -> Compiler:
    """$CXX, g++, clang++, or `python -m ziglang c++`, the first that answers; else NoCompiler."""
    candidates = [shlex.split(os.environ.get("CXX", "")), ["g++"], ["clang++"]]
    if importlib.util.find_spec("ziglang"):
        candidates.append([sys.executable, "-m", "ziglang", "c++"])
    for command in candidates:
        if command and (shutil.which(command[0]) or Path(command[0]).is_file()):
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True)
            if answer.returncode == 0:
                return Compiler(tuple(command), answer.stdout)
    raise NoCompiler("no C++ compiler: set CXX, install g++ or clang++, or pip install ziglang")


@cache
def machine_flags() -> tuple[str, ...]:
    """Flags for the instructions that matter here, where this processor has them."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ()
    try:
        known = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return ()
    wanted = ("fma", "f16c", "avx2", "bmi", "bmi2")
    return tuple(f"-m{name}" for name in wanted) if known.issuperset(wanted) else ()


def cache_dir() -> Path:
    """Where compiled kernels are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "llama-cu" / "cuda_on_cpu"


def compile_flags(*, sanitize: bool, arch: int) -> list[str]:
    """All flags but the input and output."""
    compiler = find_compiler()
    flags = [*_FLAGS, *machine_flags(), f"-D__CUDA_ARCH__={arch}0", f"-I{SHIM_DIR}"]
    flags += ["-include", str(SHIM_DIR / "cuda_shim.h")]
    flags += _GCC_FLAGS if compiler.is_gcc else _CLANG_FLAGS
    if sanitize:
        return [*flags, *_SANITIZE_FLAGS]
    return [*flags, "-O1", *(_ALIGNMENT_FLAGS if compiler.is_gcc else _CLANG_PLAIN_FLAGS)]


def link_flags(*, sanitize: bool) -> list[str]:
    """Flags from object file to shared object; only sanitizers bring a library of their own."""
    if sanitize:
        return ["-shared", *_SANITIZE_FLAGS]
    return ["-shared", *(() if find_compiler().is_gcc else _CLANG_PLAIN_FLAGS)]


def has_dynamic_shared(source: Path) -> bool:
    """Whether kernels of the file, or of a header beside it, size shared memory at launch."""
    return _mentions(source, "extern __shared__")


def _mentions(source: Path, what: str) -> bool:
    # Not in ptx.cuh, for which the shim has its own.
    headers = [path for path in source.parent.glob("*.cuh") if path.name != "ptx.cuh"]
    return any(what in path.read_text() for path in (source, *headers))


def _wrapper(source: Path, expressions: Sequence[str], *, unnamed: bool) -> str:
    # AddressSanitizer guards static variables of internal linkage, no thread-local and no shared
    # ones. The shim needs thread-local only for `extern __shared__`.
    rows = "".join(f'  CUDA_ON_CPU_KERNEL("{e}", {e}),\n' for e in expressions)
    include = f'#include "{source}"\n'
    return (
        "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n#include <ptx.cuh>\n"
        + (f"namespace {{\n{include}}}\n" if unnamed else include)
        + f"static const cuda_on_cpu::KernelEntry kKernels[] = {{\n{rows}}};\n"
        "const cuda_on_cpu::KernelEntry* const cuda_on_cpu::kernels = kKernels;\n"
        f"const int cuda_on_cpu::num_kernels = {len(expressions)};\n"
    )


def _digest(source: Path, wrapper: str, flags: Sequence[str]) -> str:
    compiler = find_compiler()
    digest = hashlib.sha256()
    for text in (*compiler.command, compiler.version, *flags, wrapper):
        digest.update(text.encode() + b"\0")
    for path in [source, *sorted(source.parent.glob("*.cuh")), *sorted(SHIM_DIR.iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def build(
    source: Path, expressions: Sequence[str], *, sanitize: bool = False, arch: int = 80
) -> Path:
    """The shared object with these kernels of a .cu file, compiled unless the cache has it.

    Raises NoCompiler, or BuildError with the compiler's words.
    """
    source = source.resolve()
    if not source.is_file():
        raise BuildError(f"there is no kernel file {source}")
    if not _mentions(source, "__CUDA_ARCH__"):
        arch = 80  # the same for all
    flags = compile_flags(sanitize=sanitize, arch=arch)
    guarded = sanitize and not has_dynamic_shared(source)
    if guarded:
        flags.append("-D__shared__=static")
    wrapper = _wrapper(source, expressions, unnamed=guarded)
    target = cache_dir() / f"{source.stem}-{_digest(source, wrapper, flags)}.so"

    def make(scratch: Path, output: Path) -> None:
        wrapper_file = scratch / f"{source.stem}_on_cpu.cpp"
        wrapper_file.write_text(wrapper)
        kernels = scratch / "kernels.o"
        _run_compiler([*flags, "-c", str(wrapper_file), "-o", str(kernels)], what)
        objects = str(kernels), str(_runtime(sanitize=sanitize))
        _run_compiler([*link_flags(sanitize=sanitize), *objects, "-o", str(output), "-lm"], what)

    what = f"{source.name}: {', '.join(expressions)}"
    return _kept(target, make)


def _runtime(*, sanitize: bool) -> Path:
    """The object file of what knows no kernel and is part of every library."""
    source, flags = SHIM_DIR / "runtime.cpp", compile_flags(sanitize=sanitize, arch=80)
    target = cache_dir() / f"{source.stem}-{_digest(source, '', flags)}.o"
    command = [*flags, "-c", str(source), "-o"]
    return _kept(target, lambda _, output: _run_compiler([*command, str(output)], source.name))


def _run_compiler(arguments: Sequence[str], what: str) -> None:
    command = [*find_compiler().command, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{what}\n{done.stderr}")


def _kept(target: Path, make: Callable[[Path, Path], None]) -> Path:
    """`target`, made unless it is there; `make` is given an empty folder and a path to write to."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(target.with_suffix(".lock"))
    with lock, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        if not target.exists():
            made = Path(scratch) / target.name
            make(Path(scratch), made)
            os.replace(made, target)
    return target


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # Test workers ask for the same kernels at the same time; one compiles, the others wait.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
