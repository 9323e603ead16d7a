from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.checkpoint.weights import weight_bytes
from llama_cu.convert import convert
from llama_cu.errors import BackendUnavailable, ModelError
from tests.checkpoints import (
    EMBED_TOKENS,
    FILE_DTYPES,
    LM_HEAD,
    SMALL_LLAMA,
    random_checkpoint,
    random_tensors,
)

FLOAT32 = np.dtype(np.float32)
TIED = {**SMALL_LLAMA, "tie_word_embeddings": True}
NORM = "model.norm.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def load(folder: Path, dtype=FLOAT32, storage_dtype=None, **options):
    return load_weights(
        folder,
        load_config(folder),
        dtype=dtype,
        storage_dtype=storage_dtype or dtype,
        **{"place": lambda host: host, **options},
    )


def refusal(folder: Path, **options) -> str:
    with pytest.raises(ModelError) as error:
        load(folder, **options)
    return str(error.value)


def rewrite(folder: Path, change) -> Path:
    """Apply `change` to the tensors of a random checkpoint; returns the file."""
    path = random_checkpoint(folder) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def save_sharded(folder: Path, num_shards: int = 3) -> dict[str, str]:
    path = random_checkpoint(folder) / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    weight_map = {}
    for shard in range(num_shards):
        name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::num_shards]}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def flatten(weights) -> list[np.ndarray]:
    layers = [array for layer in weights.layers for array in vars(layer).values()]
    arrays = [weights.embed_tokens, *layers, weights.norm, weights.lm_head]
    return [array for array in arrays if array is not None]


def test_projections_are_fused_in_order_and_the_rest_is_as_stored(tmp_path):
    config = {**SMALL_LLAMA, "attention_bias": True, "mlp_bias": True}
    random_checkpoint(tmp_path, config, seed=3)
    tensors = random_tensors(config, seed=3)
    weights = load(tmp_path)
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}."
        for kind, qkv, gate_up, o, down in (
            ("weight", layer.qkv_proj, layer.gate_up_proj, layer.o_proj, layer.down_proj),
            ("bias", layer.qkv_bias, layer.gate_up_bias, layer.o_bias, layer.down_bias),
        ):
            parts = [tensors[f"{prefix}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            assert np.array_equal(qkv, np.concatenate(parts))
            parts = [tensors[f"{prefix}mlp.{name}_proj.{kind}"] for name in ("gate", "up")]
            assert np.array_equal(gate_up, np.concatenate(parts))
            assert np.array_equal(o, tensors[f"{prefix}self_attn.o_proj.{kind}"])
            assert np.array_equal(down, tensors[f"{prefix}mlp.down_proj.{kind}"])
        assert np.array_equal(layer.input_layernorm, tensors[f"{prefix}input_layernorm.weight"])
        after = tensors[f"{prefix}post_attention_layernorm.weight"]
        assert np.array_equal(layer.post_attention_layernorm, after)
        assert layer.q_norm is None and layer.k_norm is None
    assert np.array_equal(weights.embed_tokens, tensors[EMBED_TOKENS])
    assert np.array_equal(weights.norm, tensors[NORM])
    assert np.array_equal(weights.lm_head, tensors[LM_HEAD])


def test_qwen3_has_head_norms_and_no_biases(tmp_path):
    config = {**SMALL_LLAMA, "model_type": "qwen3", "head_dim": 32}
    random_checkpoint(tmp_path, config)
    layer = load(tmp_path).layers[1]
    tensors = random_tensors(config)
    assert np.array_equal(layer.q_norm, tensors["model.layers.1.self_attn.q_norm.weight"])
    assert np.array_equal(layer.k_norm, tensors["model.layers.1.self_attn.k_norm.weight"])
    assert layer.qkv_bias is None and layer.o_bias is None and layer.gate_up_bias is None


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", FILE_DTYPES)
@pytest.mark.parametrize("file_dtype", FILE_DTYPES)
def test_any_stored_dtype_is_rounded_once_to_any_other(file_dtype, dtype, wide, tmp_path):
    random_checkpoint(tmp_path, dtype=file_dtype)
    target = FILE_DTYPES[dtype]
    weights = load(tmp_path, target, FLOAT32 if wide else target)
    stored = random_tensors(SMALL_LLAMA)[LM_HEAD].astype(FILE_DTYPES[file_dtype])
    want = stored.astype(np.float32).astype(target)
    assert all(array.dtype == (FLOAT32 if wide else target) for array in flatten(weights))
    assert np.array_equal(weights.lm_head.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_is_widened_exactly(dtype):
    source = np.arange(1 << 16, dtype=np.uint16).view(FILE_DTYPES[dtype])
    finite = source[np.isfinite(source.astype(np.float32))]
    for halves in (source, finite):
        out = np.empty(halves.size, np.float32)
        assert convert(halves, out, dtype=FLOAT32) is None
        want = halves.astype(np.float32)
        assert np.array_equal(out, want, equal_nan=True)
        assert np.array_equal(np.signbit(out), np.signbit(want))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ties_subnormals_and_infinities_are_rounded_as_numpy_does(dtype, wide):
    halves = np.arange(1 << 16, dtype=np.uint16).view(FILE_DTYPES[dtype]).astype(np.float32)
    exact = halves[np.isfinite(halves)]
    between = exact[1:] / 2 + exact[:-1] / 2
    tiny = np.float32(1e-45) * np.arange(-9, 9, dtype=np.float32)
    ties = np.concatenate([exact, between, np.nextafter(between, np.float32(0)), tiny])
    for source in (ties, np.append(ties, [np.inf, -np.inf, np.nan]).astype(np.float32)):
        out = np.empty(source.size, np.float32 if wide else FILE_DTYPES[dtype])
        assert convert(source, out, dtype=FILE_DTYPES[dtype]) is None
        with np.errstate(invalid="ignore"):
            want = source.astype(FILE_DTYPES[dtype]).astype(np.float32)
        assert np.array_equal(out.astype(np.float32), want, equal_nan=True)


def test_every_kind_of_nan_stays_one():
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    out = np.empty(bits.size, FILE_DTYPES["bfloat16"])
    convert(bits.view(np.float32), out, dtype=out.dtype)
    assert np.isnan(out.astype(np.float32)).all()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_the_first_value_that_overflows_is_returned(dtype, value):
    source = np.ones(1000, np.float32)
    source[[700, 800]] = -value, value
    out = np.empty(1000, FILE_DTYPES[dtype])
    assert convert(source, out, dtype=out.dtype) == -np.float32(value)


@pytest.mark.parametrize("dtype", FILE_DTYPES)
def test_weight_bytes_is_what_the_loaded_arrays_hold(dtype, tmp_path):
    target = FILE_DTYPES[dtype]
    for name, config in (("untied", SMALL_LLAMA), ("tied", TIED)):
        folder = random_checkpoint(tmp_path / name, config)
        arrays = {id(array): array.nbytes for array in flatten(load(folder, target))}
        assert weight_bytes(load_config(folder), target) == sum(arrays.values())


def test_shards_give_the_same_weights_as_one_file(tmp_path):
    one, many = random_checkpoint(tmp_path / "one"), tmp_path / "many"
    save_sharded(many)
    pairs = zip(flatten(load(one)), flatten(load(many)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_every_array_is_placed_and_progress_reaches_the_end(tmp_path):
    random_checkpoint(tmp_path, TIED)
    placed, steps = [], []
    weights = load(
        tmp_path,
        place=lambda host: placed.append(host) or -host,
        progress=lambda done, total: steps.append((done, total)),
    )
    total = weight_bytes(load_config(tmp_path), FLOAT32)
    assert all(array.flags.c_contiguous and array.dtype == FLOAT32 for array in placed)
    assert np.array_equal(weights.norm, -random_tensors(TIED)[NORM])
    assert [done for done, _ in steps] == np.cumsum([array.nbytes for array in placed]).tolist()
    assert steps[-1] == (total, total)


def test_a_device_that_is_too_small_is_told_with_what_was_needed(tmp_path):
    random_checkpoint(tmp_path, TIED)
    placed = []

    def place(host):
        if len(placed) == 3:
            raise MemoryError("Out of memory allocating 512 bytes")
        placed.append(host)
        return host

    with pytest.raises(BackendUnavailable) as error:
        load(tmp_path, place=place)
    assert f"{weight_bytes(load_config(tmp_path), FLOAT32)} bytes as float32" in str(error.value)
    assert f"{sum(host.nbytes for host in placed)} found room" in str(error.value)


@pytest.mark.parametrize("names", [(EMBED_TOKENS,), (LM_HEAD,), (EMBED_TOKENS, LM_HEAD)])
def test_tied_embeddings_are_one_array_under_whichever_name(names, tmp_path):
    random_checkpoint(tmp_path, TIED)
    tensors = random_tensors(TIED)
    table = tensors.pop(EMBED_TOKENS)
    save_file({**tensors, **{name: table.copy() for name in names}}, tmp_path / "model.safetensors")
    weights = load(tmp_path)
    assert weights.lm_head is weights.embed_tokens
    assert np.array_equal(weights.embed_tokens, table)


def test_tied_embeddings_that_differ_are_refused(tmp_path):
    random_checkpoint(tmp_path, TIED)
    tensors = random_tensors(TIED)
    tensors[LM_HEAD] = tensors[EMBED_TOKENS].copy()
    tensors[LM_HEAD][-1, -1] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert "tensor lm_head.weight: expected the same values as model.embed" in refusal(tmp_path)


def test_old_rotary_buffers_are_ignored(tmp_path):
    inv_freq = np.ones(8, np.float32)
    rewrite(
        tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": inv_freq})
    )
    assert len(flatten(load(tmp_path))) == 15


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NORM), "tensor model.norm.weight: expected shape [64], not found"),
        (
            lambda t: [t.pop(name) for name in list(t) if "layers.1." in name],
            "layers.1.input_layernorm.weight: expected shape [64], not found (and 8 more)",
        ),
        (lambda t: t.pop(LM_HEAD), "tensor lm_head.weight: expected shape [131, 64], not found"),
        (
            lambda t: t.update({Q_PROJ: t[Q_PROJ].T[:32].copy()}),
            f"tensor {Q_PROJ}: expected shape [64, 64], found [32, 64]",
        ),
        (
            lambda t: t.update({"score.weight": np.ones((2, 64), np.float32)}),
            "tensor score.weight: not a part of this model, found F32 [2, 64]",
        ),
        (
            lambda t: t.update({Q_PROJ.replace("weight", "bias"): np.ones(64, np.float32)}),
            "q_proj.bias: not a part of this model, found F32 [64]",
        ),
        (
            lambda t: t.update({NORM: np.ones(64, np.float64)}),
            "tensor model.norm.weight: expected dtype F32, F16, BF16, found F64",
        ),
        (
            lambda t: t.update({NORM: np.ones(64, np.int8)}),
            "tensor model.norm.weight: expected dtype F32, F16, BF16, found I8",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, words, tmp_path):
    path = rewrite(tmp_path, change)
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_value_too_large_for_float16_is_refused_by_name(tmp_path):
    rewrite(tmp_path, lambda t: t[Q_PROJ].__setitem__((5, 7), -70000.0))
    words = f"tensor {Q_PROJ}: expected values that fit float16, found -70000"
    assert words in refusal(tmp_path, dtype=np.dtype(np.float16))
    assert words in refusal(tmp_path, dtype=np.dtype(np.float16), storage_dtype=FLOAT32)
    assert load(tmp_path).layers[0].qkv_proj[5, 7] == -70000.0


def test_a_stored_infinity_is_no_overflow(tmp_path):
    rewrite(tmp_path, lambda t: t[Q_PROJ].__setitem__((5, 7), np.inf))
    assert np.isinf(load(tmp_path, np.dtype(np.float16)).layers[0].qkv_proj[5, 7])


def test_a_truncated_file_names_the_first_tensor_that_is_cut(tmp_path):
    path = random_checkpoint(tmp_path) / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 3])
    message = refusal(tmp_path)
    assert f"{path}: tensor " in message
    assert f"truncated: expected bytes up to {size}, found a file of {size - 3}" in message


def header_file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x00",
        header_file(b"{}", length=1 << 40),
        header_file(b"not json"),
        header_file(b'{"a": \xff}'),
        header_file(b"[]"),
        header_file(b"[" * 100_000),
        header_file(b'{"a": 1}'),
        header_file(json.dumps({"a": {"dtype": "F32"}}).encode()),
        header_file(json.dumps({"a": entry(offsets=(0,))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(offsets=(8, 0))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(offsets=(-8, 0))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(offsets=("0", "8"))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(shape=(3,))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(shape=(-2,))}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry(dtype="F33")}).encode(), bytes(8)),
        header_file(json.dumps({"a": entry()}).encode(), bytes(16)),
        header_file(json.dumps({"a": entry(), "b": entry((2,), (4, 12))}).encode(), bytes(12)),
    ],
)
def test_a_damaged_header_is_refused_with_the_file(content, tmp_path):
    path = random_checkpoint(tmp_path) / "model.safetensors"
    path.write_bytes(content)
    assert refusal(tmp_path).startswith(f"{path}: ")


def test_whatever_is_damaged_in_a_header_is_a_model_error_or_harmless(tmp_path):
    path = random_checkpoint(tmp_path) / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(header_end)] = rng.choice(b'0123456789"[]{}:,-.eF \x00\xff')
        path.write_bytes(damaged)
        try:
            load(tmp_path)
        except ModelError as error:
            refused += str(error).startswith(str(path))
    assert refused > 280


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    (random_checkpoint(tmp_path) / "model.safetensors").unlink()
    words = "expected model.safetensors or model.safetensors.index.json, found neither"
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-q4.gguf"])
def test_weights_in_another_format_are_named(tmp_path, name):
    (random_checkpoint(tmp_path) / "model.safetensors").rename(tmp_path / name)
    assert f"found {name}, which is not read" in refusal(tmp_path)


def test_a_link_to_weights_that_are_gone_is_named(tmp_path):
    (random_checkpoint(tmp_path) / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    assert "found model.safetensors, a link to nothing" in refusal(tmp_path)


def test_an_absent_shard_is_named(tmp_path):
    shard = save_sharded(tmp_path)[NORM]
    (tmp_path / shard).unlink()
    assert refusal(tmp_path) == (
        f"{tmp_path / shard}: expected by model.safetensors.index.json, not found"
    )


def test_a_shard_without_its_tensor_is_named(tmp_path):
    weight_map = save_sharded(tmp_path)
    other = next(shard for shard in weight_map.values() if shard != weight_map[NORM])
    write_index(tmp_path, {**weight_map, NORM: other})
    words = (
        f"{tmp_path / other}: tensor {NORM}: expected by model.safetensors.index.json, not found"
    )
    assert refusal(tmp_path) == words


def test_a_tensor_that_the_index_leaves_out_is_named(tmp_path):
    weight_map = save_sharded(tmp_path)
    shard = weight_map.pop(NORM)
    write_index(tmp_path, weight_map)
    assert f"{tmp_path / shard}: tensor {NORM}: found, but" in refusal(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": "../x"}, {"a": 3}, {"a": "/etc/passwd"}])
def test_an_index_of_another_kind_is_refused(weight_map, tmp_path):
    save_sharded(tmp_path)
    write_index(tmp_path, weight_map)
    assert "index.json: weight_map must" in refusal(tmp_path)


# Loads in a fresh process, as the high-water mark is the whole process's. What is imported and
# what the first conversion allocates is there before the baseline is taken.
MEASURE = """
import sys
from pathlib import Path
import numpy as np
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.checkpoint.weights import weight_bytes

def memory(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024

def load(folder):
    config, dtype = load_config(folder), np.dtype(np.float32)
    weights = load_weights(
        folder, config, dtype=dtype, storage_dtype=dtype, place=lambda host: host
    )
    return weights, weight_bytes(config, dtype)

load(sys.argv[1])
before = memory("VmRSS")
weights, kept = load(sys.argv[2])
print(kept, memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("file_dtype", ["bfloat16", "float32"])
def test_loading_needs_little_more_memory_than_the_model_keeps(file_dtype):
    large = {
        **SMALL_LLAMA,
        "vocab_size": 8191,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 8,
        "num_hidden_layers": 3,
    }
    with tempfile.TemporaryDirectory() as folder:
        folders = [
            random_checkpoint(Path(folder) / "small"),
            random_checkpoint(Path(folder) / "large", large, dtype=file_dtype),
        ]
        command = [sys.executable, "-c", MEASURE, *map(str, folders)]
        result = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
        )
    kept, peak = map(int, result.stdout.split())
    assert kept > 200e6
    assert peak < 1.15 * kept
