from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.gguf_tensors import GgufTensors
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.checkpoint.weights import weight_bytes
from llama_cu.errors import ModelError
from tests.checkpoints import SMALL_LLAMA, random_checkpoint, random_ids, random_tensors
from tests.gguf_files import Stored, expand, float_tensor, random_blocks, write_gguf
from tests.gguf_models import gguf_metadata, gguf_tensors, write_model

FLOAT32 = np.dtype(np.float32)
CONFIGS = {
    "llama": SMALL_LLAMA,
    "llama-biased-tied": {**SMALL_LLAMA, "attention_bias": True, "tie_word_embeddings": True},
    "mistral": {**SMALL_LLAMA, "model_type": "mistral", "sliding_window": 8, "head_dim": 8},
    "qwen2": {**SMALL_LLAMA, "model_type": "qwen2", "rope_theta": 1e6},
    "qwen3": {**SMALL_LLAMA, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
}
KEYS = {"mistral": {"ARCH.attention.sliding_window": 8}}


@pytest.fixture(params=CONFIGS)
def model(request, tmp_path):
    """(folder, GGUF file) of the same weights."""
    config = CONFIGS[request.param]
    folder = random_checkpoint(tmp_path / "folder", config)
    changes = KEYS.get(request.param, {})
    return folder, write_model(tmp_path / "it.gguf", config, random_tensors(config), **changes)


def weights_of(path, config=None, dtype=FLOAT32, **options):
    return load_weights(
        path,
        config or open_checkpoint(path).config,
        dtype=dtype,
        storage_dtype=FLOAT32,
        place=lambda array: array,
        **options,
    )


def arrays(weights):
    yield weights.embed_tokens
    for layer in weights.layers:
        yield from (array for array in vars(layer).values() if array is not None)
    yield from (weights.norm, weights.lm_head)


def assert_same(mine, theirs):
    pairs = list(zip(arrays(mine), arrays(theirs), strict=True))
    assert len(pairs) > 10
    for a, b in pairs:
        assert np.array_equal(a, b)


def small_file(path, **changes):
    return write_model(path / "it.gguf", SMALL_LLAMA, random_tensors(SMALL_LLAMA), **changes)


def refusal(path) -> str:
    with pytest.raises(ModelError) as error:
        weights_of(path)
    assert str(error.value).startswith(str(path))
    return str(error.value)


def test_config_and_weights_are_those_of_the_folder(model):
    folder, file = model
    mine, theirs = open_checkpoint(file).config, load_config(folder)
    assert mine == theirs
    assert_same(weights_of(file), weights_of(folder))


def test_a_file_gives_the_very_tokens_of_the_folder(model):
    prompts = [random_ids(length, 131, seed=length) for length in (3, 17, 40)]
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    answers = []
    for path in model:
        llm = LLM(path, device="cpu", seed=1)
        answers.append([out.token_ids for out in llm.generate(prompts, params)])
        assert llm.tokenizer is None
    assert answers[0] == answers[1]
    assert len({token for answer in answers[0] for token in answer}) > 3


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_halves_are_read_as_halves(kind, tmp_path):
    dtype = {"F16": "float16", "BF16": "bfloat16"}[kind]
    tensors = random_tensors(SMALL_LLAMA)
    bits = {n: t.view("<u4") & np.uint32(0xFFFF0000) for n, t in tensors.items()}  # fits both
    short = {name: bit.view("<f4") for name, bit in bits.items()}
    path = write_model(tmp_path / "it.gguf", SMALL_LLAMA, short, kind=kind)
    assert open_checkpoint(path).config.dtype == dtype
    gguf = GgufTensors(path)
    assert gguf.entries["model.layers.0.mlp.up_proj.weight"].dtype == kind
    wanted = write_model(tmp_path / "wide.gguf", SMALL_LLAMA, short)
    assert_same(weights_of(path), weights_of(wanted))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0"])
def test_blocks_are_worth_the_same_numbers_as_floats(kind, tmp_path):
    rng = np.random.default_rng(5)
    blocks, floats = {}, {}
    for name, tensor in gguf_tensors(SMALL_LLAMA, random_tensors(SMALL_LLAMA)).items():
        if tensor.ndim == 1:
            blocks[name] = floats[name] = float_tensor(tensor)
            continue
        data = random_blocks(kind, tensor.size // 32, rng, scale=0.002)
        blocks[name] = Stored(kind, tensor.shape, data)
        floats[name] = float_tensor(expand(blocks[name]))
    metadata = gguf_metadata(SMALL_LLAMA)
    packed = write_gguf(tmp_path / "packed.gguf", metadata, blocks)
    wide = write_gguf(tmp_path / "wide.gguf", metadata, floats)
    assert open_checkpoint(packed).config.dtype == "bfloat16"
    for mine, theirs in zip(arrays(weights_of(packed)), arrays(weights_of(wide)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=3e-7, atol=1e-8)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    prompt = [random_ids(9, 131, seed=1)]
    answers = [
        LLM(path, device="cpu").generate(prompt, params)[0].token_ids for path in (packed, wide)
    ]
    assert answers[0] == answers[1]


def test_a_tensor_can_be_read_in_stretches_of_any_length(tmp_path):
    """As a loader reads it: by bytes, from any element to any other."""
    rng = np.random.default_rng(6)
    shape = (4 * 16, 64)
    stored = Stored("Q4_0", shape, random_blocks("Q4_0", 128, rng, scale=0.1))
    others = gguf_tensors(SMALL_LLAMA, random_tensors(SMALL_LLAMA))
    floats = {name: float_tensor(tensor) for name, tensor in others.items()}
    file = floats | {"blk.0.attn_q.weight": stored, "blk.1.ffn_norm.weight": stored}
    gguf = GgufTensors(write_gguf(tmp_path / "it.gguf", gguf_metadata(SMALL_LLAMA), file))
    for name in (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.norm.weight",
    ):
        entry = gguf.entries[name]
        whole = np.empty(entry.num_bytes, np.uint8)
        gguf.read_into(name, whole, 0, start=0)
        copied = np.empty(entry.shape, np.float32)
        gguf.copy(name, copied, dtype=FLOAT32)
        assert np.array_equal(whole.view(np.float32), copied.reshape(-1))
        for _ in range(20):
            first, last = sorted(rng.integers(0, entry.num_bytes // 4, 2).tolist())
            start = int(rng.integers(0, first + 1))
            part = np.empty(4 * (last - first), np.uint8)
            gguf.read_into(name, part, 4 * (first - start), start=4 * start)
            assert np.array_equal(part, whole[4 * first : 4 * last])


def test_raw_rows_are_blocks_in_the_order_of_a_folder(tmp_path):
    rng = np.random.default_rng(7)
    stored = Stored("Q8_0", (64, 64), random_blocks("Q8_0", 128, rng, scale=0.1))
    file = {"blk.0.attn_q.weight": stored, "blk.0.attn_v.weight": stored}
    gguf = GgufTensors(write_gguf(tmp_path / "it.gguf", gguf_metadata(SMALL_LLAMA), file))
    raw = np.frombuffer(stored.data, np.uint8).reshape(64, 68)
    plain = gguf.raw_rows("model.layers.0.self_attn.v_proj.weight", 3, 20)
    assert np.array_equal(plain, raw[3:20])
    # rows 0, 1, 8, 9 of the first head of 16 lie at 0, 2, 1, 3
    q = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(gguf.raw_rows(q, 0, 64)[[0, 1, 8, 9]], raw[[0, 2, 1, 3]])
    assert np.array_equal(gguf.raw_rows(q, 5, 40), gguf.raw_rows(q, 0, 64)[5:40])
    assert gguf.tensor(q).block_type.name == "Q8_0"


def test_memory_while_loading_is_the_weights_and_a_little(tmp_path):
    config = {**SMALL_LLAMA, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024}
    rng = np.random.default_rng(8)
    tensors = {
        name: float_tensor(tensor)
        if tensor.ndim == 1
        else Stored("Q8_0", tensor.shape, random_blocks("Q8_0", tensor.size // 32, rng, scale=0.1))
        for name, tensor in gguf_tensors(config, random_tensors(config)).items()
    }
    path = write_gguf(tmp_path / "it.gguf", gguf_metadata(config), tensors)
    read = open_checkpoint(path).config
    tracemalloc.start()
    weights = weights_of(path, read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    total = weight_bytes(read, FLOAT32)
    assert sum(array.nbytes for array in arrays(weights)) == total
    # pieces of 2^18 numbers are on their way, in a few forms at once
    assert total < peak < total + (6 << 20)


def test_progress_is_told_up_to_the_last_byte(tmp_path):
    told = []
    weights_of(small_file(tmp_path), progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] == weight_bytes(load_small(tmp_path), FLOAT32)


def load_small(tmp_path):
    return open_checkpoint(tmp_path / "it.gguf").config


def test_missing_and_foreign_tensors_are_named(tmp_path):
    tensors = gguf_tensors(SMALL_LLAMA, random_tensors(SMALL_LLAMA))
    stored = {name: float_tensor(tensor) for name, tensor in tensors.items()}
    metadata = gguf_metadata(SMALL_LLAMA)
    gone = {n: t for n, t in stored.items() if n != "blk.1.ffn_up.weight"}
    path = write_gguf(tmp_path / "gone.gguf", metadata, gone)
    assert "model.layers.1.mlp.up_proj.weight: expected shape [96, 64], not found" in refusal(path)
    more = stored | {"blk.0.ffn_gate_inp.weight": float_tensor(np.ones((8, 64), np.float32))}
    path = write_gguf(tmp_path / "more.gguf", metadata, more)
    assert "blk.0.ffn_gate_inp.weight: not a part of this model, found F32 [8, 64]" in refusal(path)


def test_a_value_too_large_for_the_dtype_is_named(tmp_path):
    tensors = random_tensors(SMALL_LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
    path = write_model(tmp_path / "it.gguf", SMALL_LLAMA, tensors)
    with pytest.raises(ModelError, match=r"up_proj.*expected values that fit float16.*1e\+06"):
        weights_of(path, dtype=np.dtype(np.float16))


def test_a_file_that_shrinks_while_it_is_read_is_a_model_error(tmp_path):
    path = small_file(tmp_path)
    gguf = GgufTensors(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 64)
    name = "model.norm.weight"
    with pytest.raises(ModelError, match="truncated while it was read"):
        gguf.copy(name, np.empty(64, np.float32), dtype=FLOAT32)


def test_a_folder_with_a_gguf_file_alone_says_how_to_give_it(tmp_path):
    folder = random_checkpoint(tmp_path / "folder")
    (folder / "model.safetensors").unlink()
    small_file(folder)
    assert "it.gguf, which is not read as part of a folder: give its own path" in refusal(folder)


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing")
    with pytest.raises(ModelError, match=r"expected a folder with config\.json or a GGUF"):
        open_checkpoint(path)
    # named as a GGUF file, or not named but begun as one
    (tmp_path / "notes.gguf").write_text("nothing")
    with pytest.raises(ModelError, match=r"notes.gguf: expected a GGUF file.*b'noth'"):
        open_checkpoint(tmp_path / "notes.gguf")
    small_file(tmp_path).rename(tmp_path / "model")
    assert open_checkpoint(tmp_path / "model").config.hidden_size == 64
