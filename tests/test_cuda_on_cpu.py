"""Each fault planted in tests/cuda_on_cpu/planted is caught, and its twin passes."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_on_cpu import CpuDevice, KernelFault, LaunchError, NoCompiler, sanitized
from tests.cuda_on_cpu.build import find_compiler

PLANTED = Path(__file__).parent / "cuda_on_cpu" / "planted"
ORDERS: list[str | int] = ["forward", "reversed", 1, 2]
FLOAT = np.dtype(np.float32)

try:
    find_compiler()
except NoCompiler as reason:
    pytest.skip(str(reason), allow_module_level=True)


def make_device(order: str | int = "forward", **options: Any) -> CpuDevice:
    return CpuDevice(kernel_dir=PLANTED, sanitize=False, order=order, **options)


def ramp(size: int) -> np.ndarray:
    return np.arange(1, size + 1, dtype=np.float32)


def run_memory(
    name: str, fault: int, *, size: int = 100, grid: int = 2, shared: int = 0
) -> np.ndarray:
    device = make_device()
    x, out = device.upload(ramp(size)), device.empty((size,), FLOAT)
    sizes = () if name == "copy_unbounded" else (np.int32(size),)
    device.kernel("memory_faults", name, fault)((grid,), (64,), (x, out, *sizes), shared)
    return device.download(out)


def run_ordered(file: str, name: str, fault: int, *, order: str | int) -> np.ndarray:
    device = make_device(order)
    x, out = device.upload(ramp(256)), device.upload(np.zeros(256, np.float32))
    device.kernel(file, name, fault)((4,), (64,), (x, out), 0)
    return device.download(out)


@pytest.mark.parametrize("name", ["write_past_the_end", "write_before_the_start"])
def test_a_write_outside_an_array_is_caught_by_its_guards(name: str) -> None:
    assert np.array_equal(run_memory(name, 0), ramp(100))
    with pytest.raises(KernelFault, match=rf"memory_faults.cu: {name}<1>: a write (behind|before)"):
        run_memory(name, 1)


def test_a_write_past_dynamic_shared_memory_is_caught() -> None:
    assert np.array_equal(run_memory("overrun_dynamic_shared", 0, shared=256), ramp(100))
    with pytest.raises(KernelFault, match="past the end of its 256 bytes of dynamic shared memory"):
        run_memory("overrun_dynamic_shared", 1, shared=256)


@pytest.mark.skipif(not find_compiler().is_gcc, reason="only g++ checks copies of whole vectors")
def test_a_misaligned_vector_is_caught_without_sanitizers_too() -> None:
    run_memory("load_vectors", 0)
    with pytest.raises(KernelFault, match=r"memory_faults.cu:\d+ needs a multiple of 16 bytes"):
        run_memory("load_vectors", 1)


def run_overlapped(fault: int) -> np.ndarray:
    """x doubled twice, in place the second time, by kernels that begin too early."""
    device = make_device(overlap=lambda name: True)
    x, out = device.upload(ramp(128)), device.empty((128,), FLOAT)
    kernel = device.kernel("overlap_faults", "doubled_late", fault)
    kernel((2,), (64,), (x, out), 0)
    kernel((2,), (64,), (out, out), 0)
    return device.download(out)


@pytest.mark.parametrize("fault", [1, 2])
def test_what_is_read_or_written_before_the_wait_is_lost(fault: int) -> None:
    assert np.array_equal(run_overlapped(0), 4 * ramp(128))
    out = run_overlapped(fault)
    assert np.isnan(out).all() if fault == 1 else not np.array_equal(out, 4 * ramp(128))


def test_a_thread_that_does_not_wait_is_named() -> None:
    with pytest.raises(
        KernelFault, match=r"thread \(40, 0, 0\): ended and has not called wait_for"
    ):
        run_overlapped(3)


def test_a_grid_with_one_block_too_many_is_caught() -> None:
    assert np.array_equal(run_memory("copy_unbounded", 0, size=128, grid=2), ramp(128))
    with pytest.raises(KernelFault, match="a write behind an array of 512 bytes"):
        run_memory("copy_unbounded", 0, size=128, grid=3)


def test_a_grid_with_one_block_too_few_leaves_poison() -> None:
    out = run_memory("copy_unbounded", 0, size=128, grid=1)
    assert np.array_equal(out[:64], ramp(64))
    assert np.isnan(out[64:]).all()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("read_past_the_end", "memory_faults"),
        ("load_vectors", "memory_faults"),
        ("overrun_static_shared", "static_shared"),
        ("overrun_dynamic_shared", "memory_faults"),
    ],
)
def test_the_sanitizers_catch_what_the_ordinary_pass_cannot(name: str, file: str) -> None:
    try:
        sanitized.sanitizer_library()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    module = "tests.cuda_on_cpu.planted.misread"
    twin = sanitized.run_python(["-m", module, file, name, "0"])
    fault = sanitized.run_python(["-m", module, file, name, "1"])
    assert (twin.returncode, twin.stdout) == (0, "not caught\n"), twin.stderr
    assert fault.returncode != 0
    assert "not caught" not in fault.stdout
    assert f"{file}.cu" in fault.stderr
    assert "AddressSanitizer" in fault.stderr or "misaligned address" in fault.stderr


@pytest.mark.parametrize("name", ["reverse_block", "prefix_sum_in_warp", "sum_blocks"])
def test_a_race_gives_other_results_in_another_order(name: str) -> None:
    right = [run_ordered("order_faults", name, 0, order=order) for order in ORDERS]
    wrong = [run_ordered("order_faults", name, 1, order=order) for order in ORDERS]
    assert all(np.array_equal(out, right[0]) for out in right)
    assert not all(np.array_equal(out, wrong[0]) for out in wrong)


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_spoils_the_result_in_any_order(order: str | int) -> None:
    want = ramp(256).reshape(4, 64)[:, ::-1].ravel()
    assert np.array_equal(run_ordered("order_faults", "reverse_block", 0, order=order), want)
    assert not np.array_equal(run_ordered("order_faults", "reverse_block", 1, order=order), want)


@pytest.mark.parametrize("order", ORDERS)
def test_copies_in_the_background_need_their_wait_and_their_barriers(order: str | int) -> None:
    def run(fault: int) -> np.ndarray:
        device = make_device(order)
        x, out = device.upload(ramp(1024)), device.empty((1024,), FLOAT)
        device.kernel("copy_faults", "reverse_by_copies", fault)((2,), (64,), (x, out), 0)
        return device.download(out)

    want = ramp(1024).reshape(4, 256)[:, ::-1].ravel()
    assert np.array_equal(run(0), want)
    assert [fault for fault in (1, 2, 3, 4) if np.array_equal(run(fault), want)] == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "report"),
    [
        (
            "skipped_by_some",
            r"block \(\d, 0, 0\) cannot go on: thread \(\d+, 0, 0\) and 39 more wait at "
            r"__syncthreads \(barrier_faults.cu:10\); thread \(\d+, 0, 0\) and 23 more ended",
        ),
        (
            "left_early",
            r"and 62 more wait at __syncthreads \(barrier_faults.cu:18\); thread \(5, 0, 0\) ended",
        ),
        (
            "shuffled_by_half_a_warp",
            r"wait at __shfl_xor_sync \(barrier_faults.cu:27, mask 0xffffffff\); thread",
        ),
        (
            "read_from_a_lane_outside_the_mask",
            r"__shfl_xor_sync \(barrier_faults.cu:35\): lane \d+ reads lane \d+, which mask 0x00",
        ),
        (
            "two_barriers_for_one",
            r"is at __syncthreads \(barrier_faults.cu:4\d\) while others wait at __syncthreads "
            r"\(barrier_faults.cu:4\d\)",
        ),
    ],
)
def test_a_missed_barrier_is_reported_and_does_not_hang(
    name: str, report: str, order: str | int
) -> None:
    run_ordered("barrier_faults", name, 0, order=order)
    with pytest.raises(KernelFault, match=report):
        run_ordered("barrier_faults", name, 1, order=order)


def test_the_device_works_on_after_a_fault() -> None:
    device = make_device()
    x, out = device.upload(ramp(64)), device.empty((64,), FLOAT)
    with pytest.raises(KernelFault):
        device.kernel("barrier_faults", "left_early", 1)((1,), (64,), (x, out), 0)
    device.kernel("barrier_faults", "left_early", 0)((1,), (64,), (x, out), 0)
    assert np.array_equal(device.download(out), ramp(64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (a[1], a[0]), r"the kernel takes 3 arguments, got 2"),
        (lambda a: (a[0], a[2], a[1]), r"argument 1: want a device array, got int32"),
        (lambda a: (*a[:2], 100), r"argument 2: want a NumPy scalar .*, got int 100"),
        (lambda a: (*a[:2], np.int64(100)), r"argument 2: want a signed .* 4 bytes, got int64"),
        (lambda a: (*a[:2], np.float32(100)), r"argument 2: want a signed .*, got float32"),
        (lambda a: (*a[:2], np.uint32(100)), r"argument 2: want a signed integer .*, got uint32"),
        (lambda a: (a[0].view(np.float64), *a[1:]), r"argument 0: the pointer is to float of 4"),
        (lambda a: (a[0].view(np.int32), *a[1:]), r"argument 0: the pointer is to float of 4"),
        (lambda a: (np.array(a[0]), *a[1:]), r"argument 0: the array is not in device memory"),
    ],
)
def test_a_wrong_argument_is_refused(change: Any, message: str) -> None:
    device = make_device()
    x, out = device.upload(ramp(100)), device.empty((100,), FLOAT)
    kernel = device.kernel("memory_faults", "write_past_the_end", 0)
    kernel((2,), (64,), (x, out, np.int32(100)), 0)
    with pytest.raises(LaunchError, match=message):
        kernel((2,), (64,), change((x, out, np.int32(100))), 0)


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "message"),
    [
        ((2,), (1025,), 0, r"block.x must be in \[1, 1024\], got 1025"),
        ((2,), (64, 17), 0, r"at most 1024 threads"),
        ((0,), (64,), 0, r"grid.x must be in"),
        ((1, 65536), (64,), 0, r"grid.y must be in \[1, 65535\], got 65536"),
        ((2.0,), (64,), 0, r"grid must be integers"),
        ((2,), (64,), 99 * 1024 + 1, r"shared_bytes must be in"),
    ],
)
def test_a_launch_that_no_gpu_accepts_is_refused(
    grid: Any, block: Any, shared_bytes: int, message: str
) -> None:
    device = make_device()
    x, out = device.upload(ramp(100)), device.empty((100,), FLOAT)
    kernel = device.kernel("memory_faults", "write_past_the_end", 0)
    with pytest.raises(LaunchError, match=message):
        kernel(grid, block, (x, out, np.int32(100)), shared_bytes)


@pytest.mark.parametrize(("name", "bound"), [("copy_bounded", 64), ("write_past_the_end", 256)])
def test_a_block_larger_than_the_launch_bounds_is_refused(name: str, bound: int) -> None:
    device = make_device()
    x, out = device.upload(ramp(100)), device.empty((100,), FLOAT)
    kernel = device.kernel("memory_faults", name, 0)
    kernel((2,), (bound,), (x, out, np.int32(100)), 0)
    with pytest.raises(LaunchError, match=rf"__launch_bounds__ allow {bound} threads, got"):
        kernel((2,), (bound + 1,), (x, out, np.int32(100)), 0)


def test_fresh_arrays_hold_poison_and_memory_is_counted() -> None:
    device = make_device(memory_bytes=1000)
    array = device.empty((3, 5), np.dtype(ml_dtypes.bfloat16))
    assert np.isnan(device.download(array).astype(np.float32)).all()
    assert device.free_memory() == 970
    with pytest.raises(MemoryError, match="971 bytes asked for, 970 are free"):
        device.empty((971,), np.dtype(np.uint8))
    del array
    assert device.free_memory() == 1000


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_devices_that_nobody_uses_do_not_take_all_mappings_of_the_process() -> None:
    gc.disable()
    try:
        for _ in range(40):
            device = make_device()
            x, out = device.upload(ramp(32)), device.empty((32,), FLOAT)
            args = (x, out, np.int32(32))
            device.kernel("memory_faults", "write_past_the_end", 0)((1,), (32,), args, 0)
            assert np.array_equal(device.download(out), ramp(32))
            device.itself = device  # type: ignore[attr-defined]
        assert len(Path("/proc/self/maps").read_text().splitlines()) < 60_000
    finally:
        gc.enable()


def test_a_sparse_array_holds_zeros_takes_no_memory_and_is_guarded() -> None:
    device = make_device(memory_bytes=1000)
    array = device.sparse((2**18, 2**10), FLOAT)  # a GiB of addresses
    assert device.free_memory() == 1000
    assert not array[::1000, 5].any()
    part = array[-1, -64:]
    args = (device.upload(ramp(64)), part, np.int32(64))
    device.kernel("memory_faults", "write_past_the_end", 0)((2,), (64,), args, 0)
    assert np.array_equal(part, ramp(64))
    with pytest.raises(KernelFault, match=f"a write behind an array of {2**30} bytes"):
        device.kernel("memory_faults", "write_past_the_end", 1)((2,), (64,), args, 0)


def test_the_device_remembers_what_was_asked_for() -> None:
    device = make_device()
    device.kernel("memory_faults", "load_vectors", 0)
    device.kernel("memory_faults", "load_vectors", 0)
    assert device.requests == {("memory_faults", "load_vectors", (0,))}


def test_a_kernel_that_no_test_compiles_for_a_gpu_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"swiglu<double, 3> is in no row of cuda_templates"):
        CpuDevice(sanitize=False).kernel("swiglu", "swiglu", "double", 3)
    old, new = CpuDevice(sanitize=False, arch=75), CpuDevice(sanitize=False, arch=90)
    on_tensor_cores = ("attention_decode_mma", "attention_decode_mma", "__half", 64, 0)
    with pytest.raises(LaunchError, match=r"attention_decode_mma<.*> is in no row of .* for sm_75"):
        old.kernel(*on_tensor_cores)
    assert new.kernel(*on_tensor_cores)
    without = ("attention_decode", "attention_decode", "__half", 64, 1, 0)
    with pytest.raises(LaunchError, match=r"attention_decode<.*> is in no row of .* for sm_90"):
        new.kernel(*without)
    assert old.kernel(*without)


@pytest.mark.parametrize("static_bytes", [0, 256])
def test_static_and_dynamic_shared_memory_share_one_limit(static_bytes: int) -> None:
    device = make_device(max_shared_bytes=1024)
    x, out = device.upload(ramp(100)), device.empty((100,), FLOAT)
    name = "both_kinds_of_shared" if static_bytes else "overrun_dynamic_shared"
    kernel = device.kernel("memory_faults", name, 0)
    kernel((2,), (64,), (x, out, np.int32(100)), 1024 - static_bytes)
    with pytest.raises(LaunchError, match=r"shared_bytes must be in \[0, \d+\], got"):
        kernel((2,), (64,), (x, out, np.int32(100)), 1024 - static_bytes + 4)
