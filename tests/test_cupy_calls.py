"""Our calls of CuPy, held against the signatures of the installed CuPy; no GPU is needed."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llama_cu.ops import cublas, cupy_device
from llama_cu.ops.cublas import Cublas
from llama_cu.ops.cupy_device import CupyDevice

FLOAT_BYTES = 4
CUDA_R_32F = 0


# The parameters as NVIDIA's manual lists them; cuBLAS has no headers here to read them from.
GEMM_EX = (
    "handle transa transb m n k alpha A Atype lda B Btype ldb beta C Ctype ldc computeType algo"
)
GEMM_STRIDED_BATCHED_EX = (
    "handle transa transb m n k alpha A Atype lda strideA B Btype ldb strideB "
    "beta C Ctype ldc strideC batchCount computeType algo"
)


def matrix(address: int, ld: int, *, rows: int, columns: int) -> np.ndarray:
    """The column-major matrix of floats at an address."""
    assert rows <= ld
    size = ld * (columns - 1) + rows
    floats = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
    strides = (FLOAT_BYTES, ld * FLOAT_BYTES)
    return np.lib.stride_tricks.as_strided(floats, (rows, columns), strides)


class Library:
    """libcublas as its manual has it, of float32 in host memory."""

    def __init__(self) -> None:
        self.streams: list[int] = []
        self.workspaces: list[tuple[int, int]] = []
        exported = {
            "cublasCreate_v2": self.create,
            "cublasDestroy_v2": lambda handle: 0,
            "cublasSetMathMode": lambda handle, mode: 0 if mode == 16 else 7,
            "cublasGetStatusString": lambda status: b"an unsupported value",
            "cublasSetStream_v2": lambda handle, stream: self.streams.append(stream),
            "cublasSetWorkspace_v2": lambda handle, at, size: self.workspaces.append((at, size)),
            "cublasGemmEx": partial(self.multiply, GEMM_EX),
            "cublasGemmStridedBatchedEx": partial(self.multiply, GEMM_STRIDED_BATCHED_EX),
        }
        for name, function in exported.items():
            setattr(self, name, partial(function))  # to which ctypes' attributes can be given

    def create(self, handle: Any) -> int:
        handle._obj.value = 7
        return 0

    def multiply(self, names: str, *args: Any) -> int:
        given = dict(zip(names.split(), args, strict=True))
        declared = cublas._SIGNATURES[
            "cublasGemmEx" if names == GEMM_EX else "cublasGemmStridedBatchedEx"
        ]
        for (name, value), c_type in zip(list(given.items())[1:], declared, strict=True):
            pointers = name in ("A", "B", "C", "alpha", "beta")
            assert (c_type is ctypes.c_void_p) == pointers, name
            assert (c_type is ctypes.c_longlong) == name.startswith("stride"), name
            assert name in ("alpha", "beta") or type(value) is int, name
        assert given["handle"].value == 7 and given["computeType"] == 68 and given["algo"] == -1
        assert {given["Atype"], given["Btype"], given["Ctype"]} == {CUDA_R_32F}
        alpha, beta = given["alpha"]._obj.value, given["beta"]._obj.value
        m, n, k = given["m"], given["n"], given["k"]
        for i in range(given.get("batchCount", 1)):
            at = {s: given[s] + i * given.get(f"stride{s}", 0) * FLOAT_BYTES for s in "ABC"}
            sizes = {"A": (k, m) if given["transa"] else (m, k), "C": (m, n)}
            sizes["B"] = (n, k) if given["transb"] else (k, n)
            a, b, c = (
                matrix(at[s], given[f"ld{s.lower()}"], rows=sizes[s][0], columns=sizes[s][1])
                for s in "ABC"
            )
            product = (a.T if given["transa"] else a) @ (b.T if given["transb"] else b)
            c[...] = alpha * product + (beta * c if beta else 0)
        return 0


class DeviceArray(np.ndarray):
    """A NumPy array that tells its address as CuPy's do."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


def array(rng: np.random.Generator, *shape: int) -> DeviceArray:
    return rng.standard_normal(shape).astype(np.float32).view(DeviceArray)


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def device(library: Library) -> CupyDevice:
    """A CupyDevice whose cuBLAS is the one above."""
    device = object.__new__(CupyDevice)
    device._cublas = Cublas(library, array(np.random.default_rng(0), 8))
    stream = SimpleNamespace(ptr=5)
    device._cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: stream))
    return device


@pytest.mark.parametrize("transpose_b", [True, False])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.5, 1.0)])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 7, 3), (1, 9, 4), (6, 1, 2), (3, 4, 1)])
def test_gemm_ex_gets_each_argument_in_its_place(
    device: CupyDevice, transpose_b: bool, alpha: float, beta: float, m: int, n: int, k: int
) -> None:
    rng = np.random.default_rng(4)
    a = array(rng, m, k + 3)[:, :k]
    b = array(rng, n, k + 2)[:, :k] if transpose_b else array(rng, k, n + 2)[:, :n]
    out = array(rng, m, n + 1)[:, :n]
    want = alpha * (a @ (b.T if transpose_b else b)) + beta * out
    device.gemm(a, b, out, transpose_b=transpose_b, alpha=alpha, beta=beta)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transpose_b", [True, False])
@pytest.mark.parametrize("num_queries", [1, 6])
def test_a_batched_product_of_views_gets_each_argument_in_its_place(
    device: CupyDevice, transpose_b: bool, num_queries: int
) -> None:
    rng = np.random.default_rng(5)
    # As the unfused attention calls it: every third head of q, keys of a cache, padded scores.
    q = array(rng, num_queries, 6, 8)[:, 1::3].transpose(1, 0, 2)
    keys = array(rng, 11, 2, 8).transpose(1, 0, 2)
    scores = array(rng, 2, num_queries, 16)[..., :11]
    if transpose_b:
        want = 0.25 * q @ keys.swapaxes(1, 2)
        device.gemm(q, keys, scores, alpha=0.25)
        np.testing.assert_allclose(scores, want, rtol=1e-5, atol=1e-6)
    else:
        out = array(rng, num_queries, 6, 8)
        before, target = out.copy(), out[:, 2::3].transpose(1, 0, 2)
        want = scores @ keys
        device.gemm(scores, keys, target, transpose_b=False)
        np.testing.assert_allclose(target, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(out[:, [0, 1, 3, 4]], before[:, [0, 1, 3, 4]])


def test_the_workspace_is_given_again_with_each_new_stream(
    device: CupyDevice, library: Library
) -> None:
    rng = np.random.default_rng(6)
    a, b, out = array(rng, 2, 3), array(rng, 4, 3), array(rng, 2, 4)
    workspace = device._cublas._workspace

    for stream in (5, 5, 9, 5):
        device._cupy.cuda.get_current_stream = lambda at=stream: SimpleNamespace(ptr=at)
        device.gemm(a, b, out)

    assert library.streams == [5, 9, 5]
    assert library.workspaces == [(workspace.data.ptr, workspace.nbytes)] * 3


def test_what_cublas_refuses_is_an_error_with_its_words(
    device: CupyDevice, library: Library
) -> None:
    library.cublasGemmEx = lambda *args: 7
    rng = np.random.default_rng(7)
    with pytest.raises(RuntimeError, match=r"cublasGemmEx: an unsupported value \(7\)"):
        device.gemm(array(rng, 2, 3), array(rng, 4, 3), array(rng, 2, 4))


def test_an_empty_launch_is_refused_where_cupy_would_launch_a_block(
    device: CupyDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launches = []

    def raw(grid: Any, block: Any, args: Any, **options: Any) -> None:
        launches.append((grid, block, args, options))

    module = SimpleNamespace(get_function=lambda name: raw)
    device._cupy = SimpleNamespace(RawModule=lambda *, path: module)
    device._kernels, device._cache_dir, device._on_compile = {}, tmp_path, None
    device._telling = Lock()
    device.arch = 90
    monkeypatch.setattr(cupy_device, "cached_cubin", lambda *args, **options: (tmp_path, "name"))
    kernel = device.kernel("swiglu", "swiglu", "float", 4)

    kernel((3, 2), (256,), (np.int32(1),), 0)
    with pytest.raises(ValueError, match=r"must not be empty, got grid \(0, 2\)"):
        kernel((0, 2), (256,), (np.int32(1),), 0)

    assert launches == [((3, 2), (256,), (np.int32(1),), {"shared_mem": 0})]


class Stream:
    """A CuPy stream that keeps a diary."""

    ptr = 11

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary

    def __enter__(self) -> None:
        self.diary.append("enter")

    def __exit__(self, *reason: object) -> None:
        self.diary.append("exit")

    def begin_capture(self) -> None:
        self.diary.append("begin")

    def end_capture(self) -> str:
        self.diary.append("end")
        return "graph"


@pytest.fixture
def capturing(device: CupyDevice) -> CupyDevice:
    """A CupyDevice with a pool and a stream of the diary `device.diary`."""
    diary: list[str] = []

    @contextlib.contextmanager
    def using_allocator(malloc: object) -> Iterator[None]:
        diary.append(f"allocate by {malloc}")
        yield
        diary.append("allocate as ever")

    device._cupy.cuda.using_allocator = using_allocator
    device._graph_pool = SimpleNamespace(malloc="the graphs' pool")
    device._capture_stream = Stream(diary)
    device._runtime = SimpleNamespace(CUDARuntimeError=RuntimeError)
    device.diary = diary
    return device


def test_a_capture_has_a_stream_and_a_pool_of_its_own(
    capturing: CupyDevice, library: Library
) -> None:
    streams_at_work: list[int] = []

    graph = capturing.capture(lambda: streams_at_work.extend(library.streams))

    assert graph == "graph" and streams_at_work == [11]  # cuBLAS was told before
    assert capturing.diary == [
        "allocate by the graphs' pool", "enter", "begin", "end", "exit", "allocate as ever",
    ]  # fmt: skip


def test_a_capture_that_fails_is_ended_all_the_same(capturing: CupyDevice) -> None:
    def end_capture() -> None:
        capturing.diary.append("end")
        raise RuntimeError("the capture is invalid")

    capturing._capture_stream.end_capture = end_capture

    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        capturing.capture(work)
    assert capturing.diary[-2:] == ["end", "exit"]


def test_cupy_has_what_the_device_calls() -> None:
    cupy = pytest.importorskip("cupy")
    called = {
        cupy.cuda: "Event MemoryPool Stream alloc_pinned_memory get_current_stream using_allocator",
        cupy.cuda.Event: "done record synchronize",
        cupy.cuda.Graph: "launch",
        cupy.cuda.MemoryPointer: "copy_from_host_async copy_to_host_async ptr",
        cupy.cuda.MemoryPool: "free_bytes get_limit malloc used_bytes",
        cupy.cuda.Stream: "begin_capture end_capture synchronize",
    }
    for owner, names in called.items():
        missing = [name for name in names.split() if not hasattr(owner, name)]
        assert not missing, f"{owner} has no {', '.join(missing)}"
