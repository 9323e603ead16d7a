"""Captured work, copies and events: the contract of a device, and the faults that it shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cupy_device import CupyDevice
from llama_cu.ops.device import Device
from tests.cuda_on_cpu import CaptureError, CpuDevice, KernelFault, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

FLOAT32 = np.dtype(np.float32)
DEVICES = ["cpu_device", "lazy_cpu_device", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    try:
        if request.param == "cuda":
            return CupyDevice()
        find_compiler()
        return CpuDevice(lazy=request.param == "lazy_cpu_device")
    except (BackendUnavailable, NoCompiler) as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cpu_device() -> CpuDevice:
    return cpu_device_or_skip(lazy=False)


@pytest.fixture
def lazy_device() -> CpuDevice:
    return cpu_device_or_skip(lazy=True)


def cpu_device_or_skip(*, lazy: bool) -> CpuDevice:
    try:
        find_compiler()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    return CpuDevice(lazy=lazy)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_a_graph_computes_from_what_its_arrays_hold_when_it_is_launched(device: Device) -> None:
    ops = CudaOps(device, FLOAT32)
    host, weight = random(3, 4, 16), random(8, 16)
    x, w, out = ops.upload(host[0]), ops.upload(weight), device.empty((4, 8), FLOAT32)
    staged = device.pinned((4, 16), FLOAT32)

    def work() -> None:
        device.gemm(ops.rms_norm(x, norm, 1e-5), w, out)

    norm = ops.upload(random(16))
    work()
    want = device.download(out)
    graph = device.capture(work)
    staged[...] = host[1]
    device.copy_in(staged, x)
    unchanged = device.download(out)
    graph.launch()
    second = device.download(out)
    staged[...] = host[0]
    device.copy_in(staged, x)
    graph.launch()

    np.testing.assert_array_equal(unchanged, want)  # a capture does nothing
    assert np.abs(second - want).max() > 0.1
    np.testing.assert_array_equal(device.download(out), want)


def test_pinned_memory_goes_there_and_back(device: Device) -> None:
    up, down = device.pinned((5, 7), FLOAT32), device.pinned((5, 7), FLOAT32)
    up[...] = random(5, 7)
    array = device.empty((5, 7), FLOAT32)

    device.copy_in(up, array)
    device.copy_out(array, down)
    event = device.record()
    event.wait()

    assert event.done()
    np.testing.assert_array_equal(down, up)
    device.synchronize()


def test_a_copy_between_arrays_that_differ_is_refused(device: Device) -> None:
    array, host = device.empty((4, 4), FLOAT32), device.pinned((4, 5), FLOAT32)
    with pytest.raises(ValueError, match=r"copy_in: host \(4, 5\) float32 and device \(4, 4\)"):
        device.copy_in(host, array)
    with pytest.raises(ValueError, match="copy_out: both sides must be C-contiguous"):
        device.copy_out(array[:, :2], device.pinned((4, 2), FLOAT32))


def test_work_that_raises_leaves_no_capture_behind(device: Device) -> None:
    ops = CudaOps(device, FLOAT32)
    x, norm = ops.upload(random(2, 16)), ops.upload(random(16))
    want = device.download(ops.rms_norm(x, norm, 1e-5))

    def work() -> None:
        ops.rms_norm(x, norm, 1e-5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.capture(work)

    np.testing.assert_array_equal(device.download(ops.rms_norm(x, norm, 1e-5)), want)


def test_nothing_is_copied_or_waited_for_while_a_graph_is_captured(cpu_device: CpuDevice) -> None:
    array, host = cpu_device.upload(random(4)), cpu_device.pinned((4,), FLOAT32)
    forbidden: list[Any] = [
        lambda: cpu_device.upload(random(4)),
        lambda: cpu_device.download(array),
        lambda: cpu_device.copy_in(host, array),
        lambda: cpu_device.copy_out(array, host),
        cpu_device.record,
        cpu_device.synchronize,
        lambda: cpu_device.capture(lambda: None),
    ]
    for work in forbidden:
        with pytest.raises(CaptureError, match="is not allowed while a graph is captured"):
            cpu_device.capture(work)


def test_a_pointer_to_an_array_that_is_gone_is_caught(cpu_device: CpuDevice) -> None:
    ops = CudaOps(cpu_device, FLOAT32)
    norm, kept = ops.upload(random(16)), ops.upload(random(2, 16))

    def capture(x: Any) -> Any:
        return cpu_device.capture(lambda: ops.rms_norm(x, norm, 1e-5))

    capture(kept).launch()
    stale = capture(ops.upload(random(2, 16)))
    with pytest.raises(KernelFault, match="an array that is gone: a stale pointer"):
        stale.launch()


def test_a_graph_cannot_live_on_what_its_last_launch_left(cpu_device: CpuDevice) -> None:
    ops = CudaOps(cpu_device, FLOAT32)
    x, weight = ops.upload(random(2, 16)), ops.upload(random(4, 16))
    out = cpu_device.empty((2, 4), FLOAT32)
    held = []

    def work() -> None:
        scratch = cpu_device.empty((2, 4), FLOAT32)  # added to without being set
        cpu_device.gemm(x, weight, scratch, beta=1.0)
        cpu_device.gemm(scratch, held[0], out)

    held.append(ops.upload(random(4, 4)))
    graph = cpu_device.capture(work)
    for _ in range(2):
        graph.launch()
        assert np.isnan(cpu_device.download(out)).all()


def test_pinned_memory_that_changes_too_early_shows(lazy_device: CpuDevice) -> None:
    host, array = lazy_device.pinned((3,), FLOAT32), lazy_device.empty((3,), FLOAT32)
    host[...] = 1
    lazy_device.copy_in(host, array)
    host[...] = 2  # no event was waited for
    assert (lazy_device.download(array) == 2).all()

    lazy_device.copy_in(host, array)
    lazy_device.record().wait()
    host[...] = 3
    assert (lazy_device.download(array) == 2).all()


def test_pinned_memory_that_is_read_too_early_shows(lazy_device: CpuDevice) -> None:
    array, host = lazy_device.upload(random(3)), lazy_device.pinned((3,), FLOAT32)
    lazy_device.copy_out(array, host)
    event = lazy_device.record()
    assert np.isnan(host).all() and not event.done()

    event.wait()
    np.testing.assert_array_equal(host, random(3))
