"""From kernels/*.cu to machine code: what is compiled, with which options, and what it uses.

Compiling needs NVRTC but no GPU. CuPy is imported in the functions that need it, never above.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llama_cu.errors import BackendUnavailable
from llama_cu.folders import cache_home
from llama_cu.ops.cuda_templates import Specialisation

_HERE = Path(__file__).resolve()
# A wheel carries the sources inside the package; a checkout has them beside it.
KERNEL_DIR = next(
    d for d in (_HERE.parents[1] / "kernels", _HERE.parents[2] / "kernels") if d.is_dir()
)

_REMEDY = "pip install 'llama-cu[cuda12]' (or [cuda13])"
# CuPy makes the folder of its cache while it is imported.
WRITABLE = "set CUPY_CACHE_DIR to a folder for its cache"


def source_path(file: str) -> Path:
    """kernels/`file`.cu; ValueError if there is none."""
    path = KERNEL_DIR / f"{file}.cu"
    if not path.is_file():
        raise ValueError(f"there is no kernel file {path}")
    return path


def headers_hash(kernel_dir: Path = KERNEL_DIR) -> str:
    """A hash of kernels/*.cuh, which a kernel's own source does not show."""
    digest = hashlib.sha256()
    for path in sorted(kernel_dir.glob("*.cuh")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compile_options(arch: int) -> tuple[str, ...]:
    """NVRTC options for a compute capability (90 is sm_90).

    CuPy's own compiler would add -ftz=true, which flushes subnormals; here they are kept.
    """
    includes = (str(KERNEL_DIR), *_runtime_headers())
    return ("-std=c++17", f"-arch=sm_{arch}", *(f"-I{folder}" for folder in includes))


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel uses, as ptxas reports it."""

    registers: int
    spill_bytes: int  # stored and loaded
    stack_bytes: int  # local memory of a thread
    static_shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    """Machine code of one file for one architecture."""

    cubin: bytes
    log: str
    lowered_names: dict[str, str]  # by name expression
    resources: dict[str, Resources]  # by name expression


def compile_cubin(file: str, expressions: Sequence[str], *, arch: int) -> Compiled:
    """Compile kernels of one file for `sm_arch` with NVRTC; no GPU is needed.

    Raises BackendUnavailable without NVRTC or the runtime headers, and ValueError with the
    compiler's log if it refuses the source.
    """
    nvrtc = load_nvrtc()
    if not _runtime_headers():
        raise BackendUnavailable(f"cuda_fp16.h was not found: {_REMEDY}, or set CUDA_PATH")
    path = source_path(file)
    program = nvrtc.createProgram(path.read_text(), path.name, (), ())
    try:
        for name in expressions:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, (*compile_options(arch), "--ptxas-options=-v"))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise ValueError(f"{path.name} for sm_{arch}: {error}\n{log}") from None
        log = nvrtc.getProgramLog(program)
        lowered = {name: nvrtc.getLoweredName(program, name) for name in expressions}
        cubin = whole_elf(nvrtc.getCUBIN(program))
        return Compiled(cubin, log, lowered, _resources(log, lowered))
    finally:
        nvrtc.destroyProgram(program)


def whole_elf(cubin: bytes) -> bytes:
    """The ELF file with the zero that CuPy's getCUBIN takes off its end, as if it were a string.

    Raises ValueError where more is missing than that.
    """
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", cubin)
    programs, sections, (program_size, num_programs, section_size, num_sections) = (
        header[5],
        header[6],
        header[9:13],
    )
    size = max(programs + program_size * num_programs, sections + section_size * num_sections)
    if len(cubin) < size - 1:
        raise ValueError(f"the cubin has {len(cubin)} bytes, its header promises {size}")
    return cubin.ljust(size, b"\0")


def load_nvrtc() -> Any:
    """CuPy's binding of NVRTC; BackendUnavailable where CuPy or the library is missing."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(f"NVRTC could not be loaded ({error}): {_REMEDY}") from None
    except OSError as error:
        raise BackendUnavailable(f"NVRTC could not be loaded ({error}): {WRITABLE}") from None
    return nvrtc


def supported_archs() -> tuple[int, ...]:
    """The compute capabilities that this machine's NVRTC compiles for."""
    return tuple(load_nvrtc().getSupportedArchs())


def cached_cubin(
    specialisation: Specialisation,
    *,
    arch: int,
    cache_dir: Path,
    on_compile: Callable[[str], None] | None = None,
) -> tuple[Path, str]:
    """The cubin of one kernel on disk, and the kernel's name in it; compiled unless it is there.

    `on_compile` is told the kernel's expression before a compilation. Errors are those of
    compile_cubin, and BackendUnavailable when the folder cannot be written.
    """
    source, name = source_path(specialisation.file), specialisation.expression
    key = [name, *compile_options(arch)[:2], str(load_nvrtc().getVersion())]
    key.append(headers_hash(KERNEL_DIR))
    key.append(source.read_text())
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
    path = cache_dir / f"{specialisation.file}-sm_{arch}-{digest}.cubin"
    name_path = path.with_suffix(".name")
    if not path.exists():
        if on_compile:
            on_compile(name)
        compiled = compile_cubin(specialisation.file, [name], arch=arch)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            _write(name_path, compiled.lowered_names[name].encode())
            _write(path, compiled.cubin)  # last: what is there is complete
        except OSError as error:
            raise BackendUnavailable(f"kernels cannot be cached in {cache_dir}: {error}") from None
    return path, name_path.read_text()


def default_cache_dir() -> Path:
    """Where compiled kernels are kept between runs.

    BackendUnavailable where the user has no home folder.
    """
    try:
        return cache_home() / "llama-cu" / "kernels"
    except RuntimeError:
        reason = "compiled kernels need a home folder: set HOME or XDG_CACHE_HOME"
        raise BackendUnavailable(reason) from None


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
        scratch.write(data)
    os.replace(scratch.name, path)  # atomic: another process may write the same


@cache
def _runtime_headers() -> tuple[str, ...]:
    """The folder of cuda_fp16.h that belongs to this NVRTC, or nothing."""
    major = load_nvrtc().getVersion()[0]
    wheel = "cuda_runtime" if major < 13 else f"cu{major}"
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec else None
    folders = [Path(root) / wheel / "include" for root in roots or ()]
    if (toolkit := _toolkit_headers()) is not None:
        folders.append(toolkit)
    return tuple(str(folder) for folder in folders if (folder / "cuda_fp16.h").is_file())[:1]


def _toolkit_headers() -> Path | None:
    try:
        from cuda.pathfinder import find_nvidia_header_directory
    except ImportError:
        return None
    return Path(found) if (found := find_nvidia_header_directory("cudart")) else None


_FUNCTION = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def _resources(log: str, lowered: dict[str, str]) -> dict[str, Resources]:
    by_symbol = {}
    for match in _FUNCTION.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        by_symbol[match["name"]] = Resources(
            registers=int(match["registers"]),
            spill_bytes=int(match["stores"]) + int(match["loads"]),
            stack_bytes=int(match["stack"]),
            static_shared_bytes=int(shared[1]) if shared else 0,
        )
    missing = [name for name, symbol in lowered.items() if symbol not in by_symbol]
    if missing:
        raise ValueError(f"ptxas reported nothing about {', '.join(missing)}:\n{log}")
    return {name: by_symbol[symbol] for name, symbol in lowered.items()}
