"""Weights that go to a device by its own loader: the same as those made on the host."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama_cu.checkpoint.checkpoint import open_config
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.errors import BackendUnavailable, ModelError
from llama_cu.ops.backend import get_ops
from llama_cu.ops.cuda_loader import CudaLoader
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_templates import C_TYPES
from llama_cu.ops.numpy_ops import DTYPES
from llama_cu.weight_loading import WeightPiece
from tests.checkpoints import SMALL_LLAMA, random_checkpoint, random_tensors
from tests.cuda_on_cpu import CpuDevice, NoCompiler
from tests.cuda_on_cpu.build import find_compiler
from tests.gguf_files import Stored, float_tensor, random_blocks, write_gguf
from tests.gguf_models import gguf_metadata, gguf_tensors
from tests.test_weights import flatten

CONFIG = {**SMALL_LLAMA, "attention_bias": True, "mlp_bias": True}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DEVICES = ["cpu_device", "lazy_cpu_device", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    """One that works at once, one that works late, and a GPU."""
    try:
        if request.param == "cuda":
            return get_ops("cuda", "float32")[0].device
        find_compiler()
        return CpuDevice(lazy=request.param == "lazy_cpu_device")
    except (BackendUnavailable, NoCompiler) as reason:
        pytest.skip(str(reason))


def load(folder, device, dtype, *, chunk_bytes=1 << 16):
    ops = CudaOps(device, DTYPES[dtype])
    with CudaLoader(device, ops.dtype, chunk_bytes=chunk_bytes) as loader:
        return load_weights(
            folder,
            open_config(folder),
            dtype=ops.dtype,
            storage_dtype=ops.dtype,
            place=ops.place_weight,
            loader=loader,
        )


def bits(array):
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


@pytest.mark.parametrize("chunk_bytes", [92, 1 << 12, 1 << 22])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file_dtype", DTYPES)
def test_a_device_gets_the_weights_of_the_host(tmp_path, device, file_dtype, dtype, chunk_bytes):
    random_checkpoint(tmp_path, CONFIG, dtype=file_dtype)
    wanted = load_weights(
        tmp_path,
        load_config(tmp_path),
        dtype=DTYPES[dtype],
        storage_dtype=DTYPES[dtype],
        place=lambda host: host,
    )
    loaded = load(tmp_path, device, dtype, chunk_bytes=chunk_bytes)
    for got, want in zip(flatten(loaded), flatten(wanted), strict=True):
        np.testing.assert_array_equal(bits(device.download(got)), bits(want))


@pytest.mark.parametrize("chunk_bytes", [92, 1 << 12, 1 << 22])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_device_gets_the_blocks_of_a_gguf_file_as_numbers(tmp_path, device, dtype, chunk_bytes):
    rng = np.random.default_rng(3)
    kinds = ("Q8_0", "Q5_1", "F16", "F32", "BF16")
    tensors = {}
    for i, (name, tensor) in enumerate(gguf_tensors(CONFIG, random_tensors(CONFIG)).items()):
        kind = "F32" if tensor.ndim == 1 else kinds[i % len(kinds)]
        blocks = tensor.size // (1 if kind in ("F16", "F32", "BF16") else 32)
        data = random_blocks(kind, blocks, rng, scale=0.1)
        tensors[name] = (
            float_tensor(tensor) if tensor.ndim == 1 else Stored(kind, tensor.shape, data)
        )
    path = write_gguf(tmp_path / "it.gguf", gguf_metadata(CONFIG), tensors)
    wanted = load_weights(
        path,
        open_config(path),
        dtype=DTYPES[dtype],
        storage_dtype=DTYPES[dtype],
        place=lambda host: host,
    )
    loaded = load(path, device, dtype, chunk_bytes=chunk_bytes)
    for got, want in zip(flatten(loaded), flatten(wanted), strict=True):
        np.testing.assert_array_equal(bits(device.download(got)), bits(want))


def every_pattern(dtype):
    """All values of 16 bits; of 32 bits, random ones and those around every border."""
    if dtype.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    rng = np.random.default_rng(4)
    borders = [
        np.array([sign * value], dtype)
        for sign in (1, -1)
        for value in (0, 65504, 65519.996, 65520, 3.3895314e38, 3.3961775e38, 6e-8, 2.98e-8, 1e-40)
    ]
    near = np.concatenate(borders).view(np.uint32)[:, None] + np.arange(-3, 4).astype(np.uint32)
    random = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    # Halfway between two neighbours of 16 bits, to either side of it, where rounding is decided.
    ties = (random[:999] & 0xFFFF0000) | 0x8000
    words = np.concatenate([near.ravel(), random, ties, ties + 1, ties - 1])
    return words.view(dtype)


@pytest.mark.parametrize("to_dtype", DTYPES)
@pytest.mark.parametrize("from_dtype", DTYPES)
def test_every_number_is_converted_as_on_the_host(device, from_dtype, to_dtype):
    if from_dtype == to_dtype:
        pytest.skip("nothing is converted")
    source = every_pattern(DTYPES[from_dtype])
    with np.errstate(all="ignore"):  # NumPy has something to say of each NaN
        wide = source.astype(np.float32)
        want = wide.astype(DTYPES[to_dtype])
        narrow = want.astype(np.float32)
    kernel = device.kernel("convert", "convert", C_TYPES[from_dtype], C_TYPES[to_dtype], 8)
    target, flag = device.empty(source.shape, want.dtype), device.upload(np.zeros(1, np.int32))

    kernel((-(-source.size // 2048),), (256,), (device.upload(source), target, flag, size(source)))

    got, is_number = device.download(target), ~np.isnan(narrow)
    np.testing.assert_array_equal(bits(got)[is_number], bits(want)[is_number])
    with np.errstate(all="ignore"):
        assert np.isnan(got.astype(np.float32)[~is_number]).all()
    overflowed = (np.isinf(narrow) & np.isfinite(wide)).any()
    assert device.download(flag)[0] == int(overflowed)


@pytest.mark.parametrize("value", [7e4, -7e4])
def test_a_value_too_large_is_refused_by_name_as_on_the_host(tmp_path, device, value):
    path = random_checkpoint(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    tensors[Q_PROJ][3, 5] = value
    save_file(tensors, path)

    with pytest.raises(ModelError, match=rf"{Q_PROJ}: expected values that fit float16, found"):
        load(tmp_path, device, "float16")


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, device):
    path = random_checkpoint(tmp_path) / "model.safetensors"
    ops = CudaOps(device, DTYPES["float32"])
    with CudaLoader(device, ops.dtype, chunk_bytes=256) as loader:
        load_piece = loader.load

        def shrink_then_load(shape, pieces):
            os.truncate(path, path.stat().st_size // 2)
            return load_piece(shape, pieces)

        loader.load = shrink_then_load
        with pytest.raises(ModelError, match=r"truncated while it was read: expected bytes up to"):
            load_weights(
                tmp_path,
                load_config(tmp_path),
                dtype=ops.dtype,
                storage_dtype=ops.dtype,
                place=ops.place_weight,
                loader=loader,
            )


def test_a_large_piece_is_read_by_several_threads_and_lands_in_order(device):
    values = np.random.default_rng(5).standard_normal(3 << 20).astype(np.float32)

    def read_into(out, start):
        out[:] = values.view(np.uint8)[start : start + out.size]

    pieces = [
        WeightPiece("w", values.dtype, 0, 2 << 20, read_into),
        WeightPiece(
            "w",
            values.dtype,
            2 << 20,
            1 << 20,
            lambda out, start: read_into(out, (8 << 20) + start),
        ),
    ]
    with CudaLoader(device, values.dtype, chunk_bytes=8 << 20) as loader:
        array = loader.load((3, 1 << 20), pieces)
        assert loader.overflows() == []
    np.testing.assert_array_equal(device.download(array).ravel(), values)


def test_more_tensors_than_there_are_flags_in_one_array(device):
    values = np.full(8, 1e5, np.float32)
    loaded = [f"w{i}" for i in range(1100)]
    with CudaLoader(device, DTYPES["float16"], chunk_bytes=64) as loader:
        for name in loaded:
            fits = name not in ("w3", "w1050")
            source = values * (0.5 if fits else 1)
            loader.load((8,), [piece_of(name, source)])
        assert loader.overflows() == ["w3", "w1050"]


def piece_of(name, values):
    def read_into(out, start):
        out[:] = values.view(np.uint8)[start : start + out.size]

    return WeightPiece(name, values.dtype, 0, values.size, read_into)


def size(array):
    return np.int64(array.size)
