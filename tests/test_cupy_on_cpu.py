"""CuPy on a CUDA of ours: what it is there to catch, and the device's own tests on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cupy_on_cpu
from tests.cuda_on_cpu import NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.cupy_on_cpu.hooks import NotPatchable, replace_functions, symbols

ROOT = Path(__file__).resolve().parents[1]
DEVICE_TESTS = ("tests/test_cupy_device.py", "tests/test_graphs.py", "tests/test_loading.py")

PRELUDE = """
import gc
import ml_dtypes
import numpy as np
from tests import cupy_on_cpu
cupy_on_cpu.install()
import cupy
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cupy_device import CupyDevice
device = CupyDevice()
FLOAT32 = np.dtype(np.float32)
"""


@pytest.fixture(autouse=True)
def cupy_can_be_had() -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("functions are replaced on x86-64 Linux only")
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))


def run(*command: str, arch: int = 80) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), cupy_on_cpu.VARIABLE: str(arch)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def on_cupy(program: str, *, arch: int = 80) -> subprocess.CompletedProcess[str]:
    """A process in which CuPy has a device."""
    return run("-W", "error", "-c", PRELUDE + program, arch=arch)


def test_the_devices_own_tests_pass() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *DEVICE_TESTS)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "no GPU was found" not in done.stdout


def test_a_story_is_told_by_cupy_as_by_numpy() -> None:
    done = on_cupy("""
from llama_cu import LLM, SamplingParams
told = []
for name in ("cpu", "cuda"):
    llm = LLM("models/story", device=name, dtype="float32", kv_cache_bytes=1 << 22)
    told.append(llm.generate(["A little fox"], SamplingParams(max_tokens=12, seed=5))[0].token_ids)
assert told[0] == told[1] and len(told[1]) == 12, told
""")
    assert done.returncode == 0, done.stderr


def test_a_graph_of_overlapping_launches_draws_the_same_tokens() -> None:
    done = on_cupy(
        """
from llama_cu import LLM, SamplingParams
from llama_cu.ops import overlapped_launch
early = []
launch = overlapped_launch.OverlappedLaunches.__call__
def counted(*args, **options):
    early.append(args[1])
    launch(*args, **options)
overlapped_launch.OverlappedLaunches.__call__ = counted
told = []
for overlap in (False, True):
    device = CupyDevice(overlap=overlap)
    llm = LLM("models/story", device=device, dtype="bfloat16", kv_cache_bytes=1 << 21)
    told.append(llm.generate(["A little fox"], SamplingParams(max_tokens=8, seed=5))[0].token_ids)
    assert bool(early) == overlap == device.overlaps
assert told[0] == told[1] and len(early) == 3 * 6 + 1, (told, len(early))
""",
        arch=90,
    )
    assert done.returncode == 0, done.stderr


def test_an_older_device_says_that_it_does_not_overlap() -> None:
    done = on_cupy("assert not CupyDevice(overlap=True).overlaps")
    assert done.returncode == 0, done.stderr


def test_pinned_memory_that_is_overwritten_too_early_shows() -> None:
    done = on_cupy("""
staged, array = device.pinned((4,), FLOAT32), device.empty((4,), FLOAT32)
staged[...] = 1
device.copy_in(staged, array)
staged[...] = 2
assert (device.download(array) == 2).all()
device.copy_in(staged, array)
device.record().wait()
staged[...] = 3
assert (device.download(array) == 2).all()
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("status", [46, 2], ids=["taken by others", "full"])
def test_a_gpu_that_refuses_is_not_available(status: int) -> None:
    refusing = f"""
from tests.cupy_on_cpu.machine import CudaError
from tests.cupy_on_cpu.runtime import Runtime
def refuse(runtime, *args):
    raise CudaError({status})
Runtime.{"malloc" if status == 2 else "get_attribute"} = refuse
"""
    program = """
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
ops, note = get_ops("auto", "auto")
assert ops.device is None and "the GPU cannot be used (" in note, note
try:
    get_ops("cuda", "auto")
except BackendUnavailable as error:
    assert "cudaErrorDevicesUnavailable" in str(error) or "memory" in str(error), error
else:
    raise AssertionError("it was taken")
"""
    prelude = PRELUDE.replace("device = CupyDevice()", "")
    done = run("-W", "error", "-c", refusing + prelude + program)
    assert done.returncode == 0, done.stderr


def test_a_model_is_not_used_on_another_device() -> None:
    done = on_cupy("""
device._runtime = type("Other", (), {"getDevice": staticmethod(lambda: 1)})
device.empty((4,), FLOAT32)
""")
    assert "is on CUDA device 0, but device 1 is the current one" in done.stderr


def test_two_devices_in_a_process_do_not_take_each_others_shared_memory() -> None:
    """CuPy has one function of a kernel for both, and its limit is what was set last."""
    done = on_cupy("""
from llama_cu.ops.cuda_matvec import Norm, matvec
def product(on, in_size):
    x, weight = (on.upload(np.ones((rows, in_size), 'f4')) for rows in (1, 4))
    norm = Norm(on.upload(np.ones(in_size, 'f4')), 1e-5)
    return on.download(matvec(on, x, weight=weight, norm=norm))
want = product(device, 4096)
product(CupyDevice(), 64)
assert (product(device, 4096) == want).all()
""")
    assert done.returncode == 0, done.stderr


def test_a_graph_keeps_its_memory_when_there_is_none_left_for_another() -> None:
    done = on_cupy("""
UINT8 = np.dtype(np.uint8)
ops = CudaOps(device, FLOAT32)
x, weight = (device.upload(np.ones((size, 2), 'f4')) for size in (1 << 12, 1))
out, zeros = device.empty((1 << 12, 1), FLOAT32), device.pinned((1 << 12, 1), FLOAT32)
zeros[...] = 0
def work():  # by way of 32 KiB that are the graph's own, and of no use to the next
    device.gemm(ops.rms_norm(x, weight[0], 1e-5), weight, out)
def capture_of(num_bytes):
    assert gc.isenabled()
    device.capture(lambda: made.append((device.empty((num_bytes,), UINT8), gc.isenabled())))
    (_, collects), = made
    made.clear()
    return not collects
made = []
work()
want = device.download(out)
graph = device.capture(work)
assert capture_of(32 << 20)
rest = device.empty((device.free_memory() - (1 << 20),), UINT8)
try:
    capture_of(64 << 20)
except MemoryError:
    pass
else:
    raise AssertionError("there was memory left")
device.copy_in(zeros, out)
graph.launch()
assert (device.download(out) == want).all() and want.all()
assert capture_of(32 << 20)  # in what another of this shape had

del rest  # which CuPy keeps for other arrays
assert capture_of(64 << 20)
""")
    assert done.returncode == 0, done.stderr


def test_a_device_that_is_dropped_gives_back_what_its_graphs_had() -> None:
    done = on_cupy("""
def free_bytes():
    cupy.get_default_memory_pool().free_all_blocks()
    return cupy.cuda.runtime.memGetInfo()[0]
def use():
    other = CupyDevice()
    other.capture(lambda: other.empty((32 << 20,), np.dtype(np.uint8)))
    assert free_bytes() < before - (32 << 20)
before = free_bytes()
for _ in range(2):
    use()
    gc.collect()
    assert free_bytes() == before
""")
    assert done.returncode == 0, done.stderr


def test_no_memory_to_instantiate_a_graph_is_a_memory_error() -> None:
    scarce = """
from tests.cupy_on_cpu.machine import OUT_OF_MEMORY, CudaError
from tests.cupy_on_cpu.runtime import Runtime
tries, refused = [], [0, 2, 3]
instantiate = Runtime.instantiate
def instantiate_some(runtime, out, graph, *options):
    tries.append(len(tries))
    if tries[-1] in refused:
        raise CudaError(OUT_OF_MEMORY)
    instantiate(runtime, out, graph, *options)
Runtime.instantiate = instantiate_some
"""
    program = """
device.capture(lambda: None).launch()
assert tries == [0, 1]
try:
    device.capture(lambda: None)
except MemoryError as error:
    assert "cudaErrorMemoryAllocation" in str(error), error
else:
    raise AssertionError("it did not fail")
assert tries == [0, 1, 2, 3]
"""
    done = run("-W", "error", "-c", scarce + PRELUDE + program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("device.upload(np.ones((4, 4), 'f4'))[:, :2].copy()", "CUDADriverError: CUDA error 801"),
        ("device.empty((1 << 33,), FLOAT32)", "OutOfMemoryError"),
        (
            "device.capture(lambda: device.upload(np.ones(4, 'f4')))",
            "the current stream is capturing",
        ),
        (
            "device.kernel('swiglu', 'swiglu', 'float', 4)"
            "((1,), (1025,), (*[device.empty((4,), FLOAT32)] * 2, np.int32(1), np.int32(4)), 0)",
            "CUDADriverError: CUDA error 1",
        ),
    ],
)
def test_what_a_gpu_would_refuse_is_refused(program: str, message: str) -> None:
    done = on_cupy(program)
    assert done.returncode != 0 and message in done.stderr, done.stderr


def test_a_library_without_a_symbol_is_not_changed() -> None:
    import math

    path = Path(math.__file__ if hasattr(math, "__file__") else sys.executable)
    assert "no_such_function" not in symbols(path)
    with pytest.raises(NotPatchable, match="has no symbol no_such_function"):
        replace_functions(path, {"no_such_function": None})
