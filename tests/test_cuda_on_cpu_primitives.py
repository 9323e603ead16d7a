"""The shim's primitives against models in NumPy: shuffles, votes, atomics, conversions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

CHECKS = Path(__file__).parent / "cuda_on_cpu" / "checks"
FLOAT = np.dtype(np.float32)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
C_INTS = {"int": np.int32, "unsigned": np.uint32, "long long": np.int64, "float": np.float32}
HALVES = {"__half": np.dtype(np.float16), "__nv_bfloat16": BFLOAT16}
ORDERS: list[str | int] = ["forward", "reversed", 3]

try:
    find_compiler()
except NoCompiler as reason:
    pytest.skip(str(reason), allow_module_level=True)


def make_device(order: str | int = "forward") -> CpuDevice:
    return CpuDevice(kernel_dir=CHECKS, order=order)


def source_lane(kind: str, lane: int, *, amount: int, width: int) -> int:
    """Which lane a shuffle reads, after the PTX manual's shfl.sync (section 9.7.9.6)."""
    first = lane // width * width
    target = {
        "kIndex": first + amount % width,
        "kUp": lane - amount,
        "kDown": lane + amount,
        "kXor": lane ^ amount,
    }[kind]
    outside = target < first if kind == "kUp" else target >= first + width
    return lane if outside else target


@pytest.mark.parametrize("kind", ["kIndex", "kUp", "kDown", "kXor"])
@pytest.mark.parametrize("c_type", C_INTS)
def test_a_shuffle_reads_the_lane_that_ptx_says(kind: str, c_type: str) -> None:
    device = make_device()
    host = np.random.default_rng(1).integers(1, 2**31, 32).astype(C_INTS[c_type])
    x, kernel = device.upload(host), device.kernel("warp", "shuffle", c_type, kind)
    for width in (32, 16, 4, 1):
        for amount in (0, 1, 3, 8, 31):
            out = device.empty((32,), host.dtype)
            kernel((1,), (32,), (x, out, np.int32(amount), np.int32(width)), 0)
            lanes = [source_lane(kind, i, amount=amount, width=width) for i in range(32)]
            assert np.array_equal(device.download(out), host[lanes]), (width, amount)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("low", [-3, 1])
def test_votes_and_reductions_see_the_whole_warp_and_block(order: str | int, low: int) -> None:
    device = make_device(order)
    host = np.random.default_rng(2).integers(low, 5, 96).astype(np.int32)
    out = device.empty((96, 12), np.dtype(np.uint32))
    device.kernel("warp", "votes")((1,), (24, 4), (device.upload(host), out), 0)
    for thread, row in enumerate(device.download(out)):
        warp = host[thread // 32 * 32 :][:32]
        positive = warp > 0
        want = [
            sum(1 << i for i in range(32) if positive[i]),
            positive.any(),
            positive.all(),
            warp.sum(),
            warp.min(),
            warp.max(),
            (host > 0).sum(),
            (host > 0).any(),
            (host > 0).all(),
            sum(1 << i for i in range(32) if warp[i] == host[thread]),
            np.bitwise_or.reduce(warp),
            np.bitwise_xor.reduce(warp),
        ]
        assert row.tolist() == [int(w) % 2**32 for w in want]


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_outside_the_mask_need_not_arrive(order: str | int) -> None:
    device = make_device(order)
    host = np.random.default_rng(3).integers(-99, 99, 32).astype(np.int32)
    out = device.empty((32,), host.dtype)
    device.kernel("warp", "halves")((1,), (32,), (device.upload(host), out), 0)
    low, high = np.full(16, host[:16].sum()), host[16:] - host[16:][np.arange(16) ^ 1]
    assert np.array_equal(device.download(out), np.tile(low + high, 2))


@pytest.mark.parametrize("order", ORDERS)
def test_atomics_lose_nothing(order: str | int) -> None:
    device = make_device(order)
    host = np.random.default_rng(4).integers(0, 2**32, 5 * 64, dtype=np.uint32)
    bins, sums = device.upload(np.zeros(8, np.uint32)), device.upload(np.zeros(2, np.uint64))
    extremes = device.upload(np.array([2**32 - 1, 0], np.uint32))
    total = device.upload(np.zeros(1, np.float32))
    args = (device.upload(host), bins, extremes, sums, total)
    device.kernel("warp", "atomics")((5,), (64,), args, 0)
    assert np.array_equal(device.download(bins), np.bincount(host % 8, minlength=8))
    assert device.download(extremes).tolist() == [host.min(), host.max()]
    assert device.download(sums).tolist() == [host.sum(dtype=np.uint64)] * 2
    assert device.download(total)[0] == (host % 8).sum()


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_a_3d_launch_runs_once_and_knows_its_place(order: str | int) -> None:
    device = make_device(order)
    grid, block = (3, 2, 4), (5, 4, 2)
    out = device.empty((math.prod(grid), math.prod(block), 12), np.dtype(np.uint32))
    device.kernel("warp", "places")(grid, block, (out,), 0)
    got = device.download(out).reshape(*grid[::-1], *block[::-1], 12)
    for axis in range(3):
        thread = np.arange(block[axis]).reshape([-1 if a == 5 - axis else 1 for a in range(6)])
        place = np.arange(grid[axis]).reshape([-1 if a == 2 - axis else 1 for a in range(6)])
        assert (got[..., axis] == thread).all()
        assert (got[..., 3 + axis] == place).all()
        assert (got[..., 6 + axis] == block[axis]).all()
        assert (got[..., 9 + axis] == grid[axis]).all()


def run_numbers(
    name: str, inputs: list[np.ndarray], out: tuple[Any, ...], *args: str
) -> np.ndarray:
    device, size = make_device(), inputs[0].size
    result = device.empty(*out)
    arrays = [device.upload(x) for x in inputs]
    kernel = device.kernel("numbers", name, *args)
    kernel(((size + 255) // 256,), (256,), (*arrays, result, np.int32(size)), 0)
    return device.download(result)


@pytest.mark.parametrize("c_type", HALVES)
def test_all_half_patterns_widen_as_numpy_says(c_type: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(HALVES[c_type])
    got = run_numbers("widen", [patterns], (patterns.shape, FLOAT), c_type)
    assert np.array_equal(got, patterns.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(patterns.astype(np.float32)))


@pytest.mark.parametrize("c_type", HALVES)
def test_narrowing_rounds_to_nearest_even_at_every_tie_and_beside_it(c_type: str) -> None:
    dtype = HALVES[c_type]
    with np.errstate(all="ignore"):
        values = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float64)
        values = np.unique(values[np.isfinite(values)])
        ties = ((values[:-1] + values[1:]) / 2).astype(np.float32)
        limit = np.float32([65519.996, 65520, 1e30, 3.4e38, np.inf, -np.inf, np.nan, 1e-45, -0.0])
        x = np.concatenate([values.astype(np.float32), ties, limit])
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, -np.inf)])
        x = np.append(x, np.zeros(1, np.float32)).astype(np.float32)
        want = x.astype(dtype)
    got = run_numbers("narrow", [x], (x.shape, dtype), c_type)
    same = got.view(np.uint16) == want.view(np.uint16)
    assert (same | (np.isnan(x) & (got.view(np.uint16) == 0x7FFF))).all()


def test_pairs_convert_like_single_values() -> None:
    device = make_device()
    x = np.random.default_rng(5).standard_normal(1000).astype(np.float32)
    halves, brains = device.empty((1000,), np.dtype(np.float16)), device.empty((1000,), BFLOAT16)
    args = (device.upload(x), halves, brains, np.int32(500))
    device.kernel("numbers", "narrow_pairs")((2,), (256,), args, 0)
    assert np.array_equal(device.download(halves), x.astype(np.float16))
    assert np.array_equal(device.download(brains), x.astype(ml_dtypes.bfloat16))


def test_bit_tricks_agree_with_python_integers() -> None:
    rng = np.random.default_rng(6)
    corners = np.array([0, 1, 2**31, 2**32 - 1], np.uint32)
    x = np.append(rng.integers(0, 2**32, 300, dtype=np.uint32), corners)
    y = rng.permutation(x)
    got = run_numbers("bits", [x, y], ((x.size, 8), np.dtype(np.uint32)))
    for a, b, row in zip(x.tolist(), y.tolist(), got.tolist(), strict=True):
        high = ((a << 32 | b) * (b << 32 | a)) >> 64
        lowest = (a & -a).bit_length()
        want = [a.bit_count(), 32 - a.bit_length(), lowest, int(f"{a:032b}"[::-1], 2), a * b >> 32]
        assert row == [*want, high % 2**32, high >> 32, a & 0x3FFFFFFF]


def test_functions_agree_with_float64() -> None:
    x = np.random.default_rng(7).uniform(-50, 50, 1000).astype(np.float32)
    x = np.append(x, np.arange(-8, 9) / 2).astype(np.float32)
    got = run_numbers("functions", [x], ((x.size, 4), FLOAT)).astype(np.float64)
    wide = x.astype(np.float64)
    want = [np.sin(np.pi * wide), np.cos(np.pi * wide), 1 / np.sqrt(abs(wide) + 1), wide / 3]
    assert np.abs(got - np.stack(want, axis=1)).max() < 2e-6
    assert set(got[-17:, :2].ravel().tolist()) == {-1.0, 0.0, 1.0}


def test_conversions_to_integers_saturate_as_on_a_gpu() -> None:
    x = np.float32([2.5, -2.5, 0.99, -0.01, 3e9, -3e9, 1e30, -1e30, np.inf, np.nan])
    got = run_numbers("whole_numbers", [x], ((x.size, 4), np.dtype(np.int64)))
    int_max, uint_max, ll_max = 2**31 - 1, 2**32 - 1, 2**63 - 1
    assert got[:, 0].tolist() == [2, -2, 1, 0, int_max, -(2**31), int_max, -(2**31), int_max, 0]
    assert got[:, 1].tolist() == [2, -2, 0, 0, int_max, -(2**31), int_max, -(2**31), int_max, 0]
    assert got[:, 2].tolist() == [2, 0, 0, 0, 3 * 10**9, 0, uint_max, 0, uint_max, 0]
    assert got[:, 3].tolist() == [
        3, -2, 1, 0, 3 * 10**9, -3 * 10**9, ll_max, -(2**63), ll_max, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("c_type", HALVES)
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("order", ORDERS)
def test_tiles_of_the_tensor_cores_lie_where_ptx_says(
    c_type: str, transposed: int, order: str | int
) -> None:
    device, rng = make_device(order), np.random.default_rng(7)
    a, b, sums = (rng.integers(-8, 9, shape) for shape in ((16, 16), (16, 8), (16, 8)))
    columns = np.ascontiguousarray(b.T) if transposed else b
    x, y = (device.upload(part.astype(HALVES[c_type])) for part in (a, columns))
    out = device.upload(sums.astype(np.float32))
    device.kernel("tensor", "product", c_type, transposed)((1,), (32,), (x, y, out), 0)
    assert np.array_equal(device.download(out), a @ b + sums)


@pytest.mark.parametrize("order", ORDERS)
def test_a_tile_is_transposed_between_the_lanes(order: str | int) -> None:
    host = np.arange(64, dtype=np.uint16).reshape(8, 8)
    device = make_device(order)
    x, out = device.upload(host.view(np.uint32)), device.empty((8, 4), np.dtype(np.uint32))
    device.kernel("tensor", "transposed")((1,), (32,), (x, out), 0)
    assert np.array_equal(device.download(out).view(np.uint16), host.T)


def test_copies_come_in_the_order_of_their_groups() -> None:
    host = np.arange(1024, dtype=np.float32).reshape(4, 256)
    for pending in range(5):
        device = make_device()
        x, out = device.upload(host), device.empty(host.shape, FLOAT)
        device.kernel("tensor", "groups_of_copies", pending)((1,), (64,), (x, out), 0)
        there = np.isfinite(device.download(out)).all(axis=1)
        assert there.tolist() == [group < 4 - pending for group in range(4)]
        assert np.array_equal(device.download(out)[there], host[there])


def test_approximate_powers_are_zero_where_they_would_be_subnormal() -> None:
    host = np.array([-np.inf, -150, -126.5, -126, -1, -1e-39, 0, 3], np.float32)
    device = make_device()
    x, out = device.upload(host), device.empty(host.shape, FLOAT)
    device.kernel("tensor", "powers_of_two")((1,), (32,), (x, out, np.int32(host.size)), 0)
    assert device.download(out).tolist() == [0, 0, 0, 2.0**-126, 0.5, 1, 1, 8]
