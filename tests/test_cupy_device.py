"""What of the CuPy device can be proven without a GPU, and its contract where there is one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.cublas import gemm_layout
from llama_cu.ops.cupy_device import CupyDevice, nearest_arch
from llama_cu.ops.device import Device, check_gemm
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16]
DEVICES = ["cpu_device", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    try:
        if request.param == "cuda":
            return CupyDevice()
        find_compiler()
        return CpuDevice()
    except (BackendUnavailable, NoCompiler) as reason:
        pytest.skip(str(reason))


def column_major(array: np.ndarray, ld: int, *, rows: int, columns: int) -> np.ndarray:
    """The matrix that cuBLAS sees at this address with this leading dimension."""
    strides = (array.itemsize, ld * array.itemsize)
    return np.lib.stride_tricks.as_strided(array, (rows, columns), strides)


@pytest.mark.parametrize("transpose_b", [True, False])
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1)])
def test_cublas_is_told_of_the_same_product(shape: tuple[int, int, int], transpose_b: bool) -> None:
    m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((2 * m, k + 4))[::2, :k]
    b = rng.standard_normal((n, k + 1) if transpose_b else (k, n + 1))
    b = b[:, :k] if transpose_b else b[:, :n]
    out = rng.standard_normal((m, n + 2))[:, :n]
    check_gemm(a.astype("f4"), b.astype("f4"), out.astype("f4"), transpose_b=transpose_b)

    layout = gemm_layout(a, b, out, transpose_b=transpose_b)
    rows, columns = (k, n) if transpose_b else (n, k)
    first = column_major(b, layout.first_ld, rows=rows, columns=columns)
    second = column_major(a, layout.second_ld, rows=k, columns=m)
    target = column_major(out, layout.out_ld, rows=n, columns=m)
    want = a @ (b.T if transpose_b else b)
    target[...] = (first.T if layout.transpose_first else first) @ second

    assert (layout.m, layout.n, layout.k) == (n, m, k)
    assert layout.first_ld >= rows and layout.second_ld >= k and layout.out_ld >= n
    assert np.allclose(out, want, rtol=1e-12, atol=1e-12)


def test_a_batch_is_strided_and_may_repeat_an_operand() -> None:
    a, b = np.zeros((3, 4, 5), np.float32), np.broadcast_to(np.zeros((6, 5), np.float32), (3, 6, 5))
    layout = gemm_layout(a, b, np.zeros((3, 4, 6), np.float32), transpose_b=True)
    assert (layout.batch, layout.first_stride, layout.second_stride, layout.out_stride) == (
        3, 0, 20, 24,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", ["same", "float32"])
@pytest.mark.parametrize("transpose_b", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_gemm_adds_a_scaled_product(
    device: Device, dtype: Any, out_dtype: str, transpose_b: bool, batch: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((*batch, 6, 24)).astype(dtype)
    b = rng.standard_normal((*batch, 10, 24) if transpose_b else (*batch, 24, 10)).astype(dtype)
    before = rng.standard_normal((*batch, 6, 10)).astype(dtype if out_dtype == "same" else "f4")
    out = device.upload(before)
    right = b.swapaxes(-1, -2) if transpose_b else b
    want = 0.5 * before.astype("f8") + 2.0 * (a.astype("f8") @ right.astype("f8"))

    args = (device.upload(a), device.upload(b), out)
    device.gemm(*args, transpose_b=transpose_b, alpha=2.0, beta=0.5)

    error = np.abs(device.download(out).astype("f8") - want).max() / np.abs(want).max()
    rounding = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 4e-3}[before.dtype.name]
    assert error < rounding


def test_gemm_with_beta_zero_does_not_read_what_out_held(device: Device) -> None:
    a, b = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    out = device.upload(np.full((2, 4), np.nan, np.float32))
    device.gemm(device.upload(a), device.upload(b), out)
    assert (device.download(out) == 3).all()


@pytest.mark.parametrize(
    ("shapes", "dtypes", "message"),
    [
        (((2, 3), (4, 5), (2, 4)), "fff", r"shapes do not fit: \(2, 3\), \(4, 5\) -> \(2, 4\)"),
        (((2, 3), (4, 3), (2, 5)), "fff", r"shapes do not fit"),
        (((2, 2, 3), (3, 4, 3), (2, 2, 4)), "fff", r"shapes do not fit"),
        (((3,), (4, 3), (4,)), "fff", r"a must have 2 axes"),
        (((2, 3), (4, 3), (2, 4)), "fef", r"dtypes do not fit: float32, float16 -> float32"),
        (((2, 3), (4, 3), (2, 4)), "ffe", r"dtypes do not fit: float32, float32 -> float16"),
    ],
)
def test_gemm_refuses_operands_that_do_not_fit(
    device: Device, shapes: Any, dtypes: str, message: str
) -> None:
    arrays = [device.empty(s, np.dtype(d)) for s, d in zip(shapes, dtypes, strict=True)]
    with pytest.raises(ValueError, match=message):
        device.gemm(*arrays)


def test_gemm_refuses_a_last_axis_with_gaps(device: Device) -> None:
    a, b = device.empty((2, 6), DTYPES[0]), device.empty((4, 3), DTYPES[0])
    with pytest.raises(ValueError, match="the last axis of a must be contiguous"):
        device.gemm(a[:, ::2], b, device.empty((2, 4), DTYPES[0]))


def test_gemm_refuses_rows_that_overlap() -> None:
    b, out = np.ones((4, 3), np.float32), np.ones((2, 4), np.float32)
    for strides in ((0, 4), (8, 4), (-12, 4), (14, 4)):
        a = np.lib.stride_tricks.as_strided(np.ones((9, 3), np.float32)[4:], (2, 3), strides)
        with pytest.raises(ValueError, match="the rows of a must not overlap"):
            check_gemm(a, b, out, transpose_b=True)


@pytest.mark.parametrize("dtype", [*DTYPES, np.dtype(np.int32), np.dtype(np.uint64)], ids=str)
def test_what_goes_up_comes_down(device: Device, dtype: Any) -> None:
    host = np.random.default_rng(3).integers(0, 100, (5, 7)).astype(dtype)
    array = device.upload(host)
    assert array.dtype == dtype and np.array_equal(device.download(array), host)
    assert np.array_equal(device.download(array[1:4]), host[1:4])
    with pytest.raises(ValueError, match="upload: the array must be C-contiguous"):
        device.upload(host[:, ::2])
    with pytest.raises(ValueError, match="download: the array must be C-contiguous"):
        device.download(array[:, 2:5])


def test_a_device_says_what_it_is(device: Device) -> None:
    assert device.name and device.num_multiprocessors > 0
    assert device.max_shared_bytes >= 48 * 1024
    before = device.free_memory()
    held = device.empty((1 << 20,), DTYPES[0])
    assert held.nbytes == 4 << 20 and device.free_memory() <= before - held.nbytes + (2 << 20)


def test_machine_code_is_taken_from_the_same_major_version() -> None:
    supported = (75, 80, 86, 89, 90, 100, 120)
    assert [nearest_arch(cc, supported) for cc in (75, 88, 89, 90, 103, 121)] == [
        75, 86, 89, 90, 100, 120,
    ]  # fmt: skip
    assert nearest_arch(87, (86, 87)) == 87
    assert nearest_arch(103, (100, 101, 120)) == 100  # 101 is an embedded chip
    with pytest.raises(BackendUnavailable, match=r"compute capability 8.7: update CuPy"):
        nearest_arch(87, supported)
    with pytest.raises(BackendUnavailable, match=r"compute capability 13.0: update CuPy"):
        nearest_arch(130, supported)


def test_a_cupy_that_cannot_make_its_cache_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cupy.py").write_text("raise PermissionError(13, 'Permission denied', '~')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(BackendUnavailable, match=r"Permission denied.*: set CUPY_CACHE_DIR"):
        get_ops("cuda", "auto")
    ops, note = get_ops("auto", "auto")
    assert ops.device is None and "CuPy could not be imported" in note


def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    try:
        CupyDevice()
    except BackendUnavailable as error:
        assert "pip install" in str(error) or "install an NVIDIA driver" in str(error)
