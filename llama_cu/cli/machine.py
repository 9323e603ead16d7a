"""Looks at the machine for `llama-cu info`: what is there, in words, or why it is not."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


class Absent(Exception):
    """What was looked for is not on this machine; the message says what to do."""


def system() -> str:
    python = f"Python {platform.python_version()}"
    return f"{python}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"


def numpy() -> str:
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{np.__version__} with {blas['name']} {blas['version']}"


def driver() -> str:
    number = ctypes.c_int()
    _check(_libcuda().cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    return f"for CUDA {number.value // 1000}.{number.value % 1000 // 10}"


def gpus() -> Iterator[str]:
    """One line a GPU: name, architecture, memory."""
    cuda = _libcuda()
    _check(cuda.cuInit(0), "cuInit")
    count = ctypes.c_int()
    _check(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    if count.value == 0:
        raise Absent("the driver sees no GPU")
    for index in range(count.value):
        yield _gpu(cuda, index)


def cupy() -> str:
    """The installed CuPy package; two at once do not work."""
    found = [
        f"{name} {metadata.version(name)}"
        for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
        if _installed(name)
    ]
    if not found:
        raise Absent(f"not installed: {install_hint()}")
    if len(found) > 1:
        raise Absent(f"{' and '.join(found)} are installed, and must be one: pip uninstall one")
    return found[0]


def nvrtc() -> str:
    from llama_cu.ops.cuda_kernels import load_nvrtc, supported_archs

    major, minor = load_nvrtc().getVersion()
    archs = supported_archs()
    return f"{major}.{minor}, compiles for sm_{archs[0]} to sm_{archs[-1]}"


def cublas() -> str:
    for name in ("nvidia-cublas-cu12", "nvidia-cublas"):
        if _installed(name):
            return f"{metadata.version(name)} ({name})"
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return str(load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, RuntimeError):
        raise Absent(f"not found: {install_hint()}") from None


def device() -> str:
    """What --device auto takes, and why."""
    from llama_cu.ops.backend import get_ops

    return get_ops("auto", "auto")[1]


def dtypes() -> str:
    return "float32, float16, bfloat16; auto: float32 on the CPU, the model's on CUDA"


def kernel_cache() -> str:
    from llama_cu.ops.cuda_kernels import default_cache_dir

    folder = default_cache_dir()
    if not folder.is_dir():
        return f"{folder} (not there yet)"
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{folder} ({len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB)"


def install_hint() -> str:
    """The command that makes CUDA work here, by the driver's CUDA version."""
    try:
        extra = "cuda13" if float(driver().split()[-1]) >= 13 else "cuda12"
    except Absent:
        return 'with an NVIDIA GPU and its driver, pip install "llama-cu[cuda12]" (or [cuda13])'
    return f'pip install "llama-cu[{extra}]"'


def _libcuda() -> ctypes.CDLL:
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(library)
    except OSError:
        raise Absent(f"not found ({library}): CUDA needs an NVIDIA GPU and its driver") from None


def _check(code: int, call: str) -> None:
    if code != 0:
        raise Absent(f"{call} failed with CUDA error {code}")


def _gpu(cuda: ctypes.CDLL, index: int) -> str:
    handle, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(128)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(handle), index), "cuDeviceGet")
    _check(cuda.cuDeviceGetName(name, len(name), handle), "cuDeviceGetName")
    _check(cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle), "cuDeviceTotalMem")
    for attribute, value in (
        (_COMPUTE_CAPABILITY_MAJOR, major),
        (_COMPUTE_CAPABILITY_MINOR, minor),
    ):
        code = cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        _check(code, "cuDeviceGetAttribute")
    size = f"{memory.value / 2**30:.1f} GiB"
    return f"{index}: {name.value.decode()}, sm_{major.value}{minor.value}, {size}"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
