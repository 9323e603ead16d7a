"""Parts of kernels alone, where whole kernels meet no border or call them but once."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cu.ops.cuda_kernels import KERNEL_DIR
from llama_cu.ops.numpy_sampling import _weights
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.cuda_on_cpu.library import asan_function

CHECKS = Path(__file__).parent / "cuda_on_cpu" / "checks"
ORDERS: list[str | int] = ["forward", "reversed", 3]
C_TYPES = {"int": np.int32, "unsigned long long": np.uint64, "float": np.float32}

try:
    find_compiler()
except NoCompiler as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(scope="module")
def kernel_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checks, with what they include as headers beside them: a change of one rebuilds them."""
    folder = tmp_path_factory.mktemp("kernel_parts")
    for path in (CHECKS / "reductions.cu", CHECKS / "draws.cu", *KERNEL_DIR.glob("*.cuh")):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_threads", [32, 96, 1024])
@pytest.mark.parametrize("c_type", C_TYPES)
def test_every_thread_gets_the_reduction_of_each_of_two_calls(
    kernel_dir: Path, order: Any, num_threads: int, c_type: str
) -> None:
    device = CpuDevice(kernel_dir=kernel_dir, order=order)
    dtype = np.dtype(C_TYPES[c_type])
    host = np.random.default_rng(8).integers(1, 1000, num_threads).astype(dtype)
    calls = np.stack([host, host * dtype.type(-3 % 2**64 if dtype.kind == "u" else -3)])
    for width in (32, 8, 1):
        out = device.empty((2, num_threads, 4), dtype)
        args = (device.upload(host), out, np.int32(width))
        device.kernel("reductions", "reductions", c_type)((1,), (num_threads,), args, 0)
        for x, result in zip(calls, device.download(out), strict=True):
            np.testing.assert_array_equal(result[:, 0], x.sum(dtype=dtype))
            np.testing.assert_array_equal(result[:, 1], x.max())
            np.testing.assert_array_equal(result[:, 2], np.cumsum(x, dtype=dtype) - x)
            parts = x.reshape(-1, width).sum(axis=1, dtype=dtype)
            np.testing.assert_array_equal(result[:, 3], np.repeat(parts, width))


def test_weights_are_those_of_numpy_bit_by_bit(kernel_dir: Path) -> None:
    device = CpuDevice(kernel_dir=kernel_dir)
    rng = np.random.default_rng(9)
    near = -np.exp2(rng.uniform(-24, 5, 20000))
    borders = -np.log(2) * np.arange(0.5, 41, 0.5)
    x = np.concatenate([near, borders, [0, -0.0, -28, -28.01, -1e30, -np.inf, np.nan]])
    x = np.sort(x.astype(np.float32))
    out = device.empty(x.shape, np.dtype(np.uint64))
    args = (device.upload(x), out, np.int32(x.size))
    device.kernel("draws", "weights")((-(-x.size // 256),), (256,), args, 0)
    found = device.download(out)
    np.testing.assert_array_equal(found, _weights(x, np.float32(0)))

    x = x.astype(np.float64)
    counted = x > -28
    assert (found[x == 0] == 1 << 40).all() and (found[~counted] == 0).all()
    exact = np.exp(x[counted]) * 2.0**40
    # x log2(e) is rounded to a float32.
    rounding = 2**-22 + np.abs(x[counted]) * 2**-24
    assert (np.abs(found[counted] - np.floor(exact)) <= exact * rounding + 1).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_threads", [64, 96])
@pytest.mark.parametrize(("num_kept", "spacing"), [(256, 1), (64, 33), (1, 40), (2, 16)])
def test_a_draw_on_the_border_of_two_tokens_takes_the_second(
    kernel_dir: Path, order: Any, num_threads: int, num_kept: int, spacing: int
) -> None:
    device = CpuDevice(kernel_dir=kernel_dir, order=order)
    kept = np.arange(num_kept) * spacing + spacing - 1
    size = num_kept * spacing + 1
    logits = np.full(size + 100, -np.inf, np.float32)
    logits[kept] = 0
    logits[size:] = 0  # of another row
    borders = [i * 2**64 // num_kept for i in range(num_kept + 1)]
    fractions = np.array([*borders[:-1], *(border - 1 for border in borders[1:])], np.uint64)
    out = device.empty(fractions.shape, np.dtype(np.int32))
    args = (device.upload(logits), device.upload(fractions), out, np.int32(size))
    device.kernel("draws", "draw_at")((fractions.size,), (num_threads,), args, 0)
    assert np.array_equal(device.download(out), np.tile(kept, 2))


def test_a_draw_from_nothing_finds_nothing(kernel_dir: Path) -> None:
    device = CpuDevice(kernel_dir=kernel_dir)
    logits, out = device.upload(np.full(100, -np.inf, np.float32)), device.upload(np.int32([7, 7]))
    args = (logits, device.upload(np.uint64([0, 2**64 - 1])), out, np.int32(100))
    device.kernel("draws", "draw_at")((2,), (64,), args, 0)
    assert device.download(out).tolist() == [-1, -1]


def test_stacks_of_threads_leave_no_poisoned_addresses_behind(kernel_dir: Path) -> None:
    first_poisoned = asan_function("region_is_poisoned")
    if first_poisoned is None:
        pytest.skip("for the pass under AddressSanitizer")
    device = CpuDevice(kernel_dir=kernel_dir)
    out = device.empty((2, 96, 4), np.dtype(np.float32))
    args = (device.upload(np.ones(96, np.float32)), out, np.int32(32))
    device.kernel("reductions", "reductions", "float")((1,), (96,), args, 0)
    arena = device._arena
    assert arena is not None
    at = (arena.address, arena.num_bytes)
    assert first_poisoned(*at) is not None
    del arena, device
    gc.collect()
    assert first_poisoned(*at) is None
