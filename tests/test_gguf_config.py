from __future__ import annotations

import numpy as np
import pytest

from llama_cu import LLM, SamplingParams
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.rope import inv_freq_table
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.errors import ModelError
from tests.checkpoints import SMALL_LLAMA, random_checkpoint, random_ids, random_tensors
from tests.gguf_files import float_tensor
from tests.gguf_models import write_model


def small_file(path, **changes):
    return write_model(path / "it.gguf", SMALL_LLAMA, random_tensors(SMALL_LLAMA), **changes)


def refusal(path) -> str:
    with pytest.raises(ModelError) as error:
        load_weights(
            path,
            open_checkpoint(path).config,
            dtype=np.dtype(np.float32),
            storage_dtype=np.dtype(np.float32),
            place=lambda array: array,
        )
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    "changes, rope",
    [
        ({"ARCH.rope.scaling.type": "none", "ARCH.rope.scaling.factor": 4.0}, None),
        ({"ARCH.rope.scaling.type": "linear"}, None),
        (
            {"ARCH.rope.scaling.type": "linear", "ARCH.rope.scaling.factor": 4.0},
            {"type": "linear", "factor": 4.0},
        ),
        ({"ARCH.rope.scale_linear": 2.0}, {"type": "linear", "factor": 2.0}),
        (
            {
                "ARCH.rope.scaling.type": "yarn",
                "ARCH.rope.scaling.factor": 4.0,
                "ARCH.rope.scaling.original_context_length": 32,
                "ARCH.rope.scaling.yarn_beta_fast": 16.0,
            },
            {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 16.0,
                "attention_factor": 0.1 * np.log(4.0) + 1,
            },
        ),
    ],
)
def test_rope_scaling_is_that_of_config_json(changes, rope, tmp_path):
    mine = open_checkpoint(small_file(tmp_path, **changes)).config.rope
    folder = random_checkpoint(tmp_path / "folder", {**SMALL_LLAMA, "rope_scaling": rope})
    assert mine == load_config(folder).rope


def test_factors_of_llama_3_give_its_frequencies(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = {**SMALL_LLAMA, "rope_scaling": scaling}
    folder = random_checkpoint(tmp_path / "folder", config)
    # the rule of the model's authors, one frequency at a time
    factors = []
    for i in range(8):
        wavelength = 2 * np.pi * 10000 ** (i / 8)
        smooth = (32 / wavelength - 1) / 3
        factors.append(1 / ((1 - min(max(smooth, 0), 1)) / 8 + min(max(smooth, 0), 1)))
    assert 1.0 in factors and 8.0 in factors
    extra = {"rope_freqs.weight": float_tensor(np.array(factors, np.float32))}
    file = small_file(tmp_path, extra=extra)
    mine, theirs = open_checkpoint(file).config, load_config(folder)
    assert mine.rope.rope_type == "factors"
    np.testing.assert_allclose(
        inv_freq_table(mine, 128), inv_freq_table(theirs, 128), rtol=3e-7, atol=0
    )
    params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
    prompt = [random_ids(60, 131, seed=4)]
    answers = [LLM(p, device="cpu").generate(prompt, params)[0].token_ids for p in (file, folder)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "factors, words",
    [
        (np.ones(7, np.float32), "expected F32 [8], found F32 [7]"),
        (np.zeros(8, np.float32), "expected finite numbers above 0"),
        (np.full(8, np.nan, np.float32), "expected finite numbers above 0"),
    ],
)
def test_factors_that_cannot_be_are_refused(factors, words, tmp_path):
    extra = {"rope_freqs.weight": float_tensor(factors)}
    assert words in refusal(small_file(tmp_path, extra=extra))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"general.architecture": "gemma3"}, "general.architecture must be one of llama, qwen2"),
        ({"general.architecture": None}, "general.architecture is required and missing"),
        ({"ARCH.expert_count": 8}, "llama.expert_count is not supported, got 8"),
        ({"ARCH.attention.causal": False}, "llama.attention.causal is not supported"),
        ({"ARCH.rope.scaling.type": "longrope"}, "must be one of none, linear, yarn"),
        ({"ARCH.rope.dimension_count": 8}, "llama.rope.dimension_count must be the head size, 16"),
        ({"ARCH.attention.value_length": 32}, "value_length must be the head size, 16, got 32"),
        ({"ARCH.block_count": None}, "llama.block_count is required and missing"),
        ({"ARCH.block_count": 4000000000}, "num_hidden_layers must be at most 4096"),
        ({"ARCH.block_count": "two"}, "llama.block_count must be a positive integer"),
        ({"ARCH.attention.head_count": 0}, "llama.attention.head_count must be a positive"),
        ({"ARCH.attention.head_count": 5}, "head_count must divide llama.embedding_length (64)"),
        ({"ARCH.attention.head_count_kv": 3}, "num_key_value_heads must divide"),
        ({"ARCH.attention.head_count_kv": [2, 1]}, "head_count_kv must be the same for every"),
        ({"ARCH.attention.layer_norm_rms_epsilon": float("nan")}, "must be a finite number"),
        ({"ARCH.rope.freq_base": -1.0}, "llama.rope.freq_base must be a finite number above 0"),
        ({"split.count": 3}, "split.count must be 1"),
        ({"ARCH.embedding_length": 65}, "token_embd.weight: expected shape [vocab_size, 65]"),
        ({"ARCH.feed_forward_length": 95}, "mlp.gate_proj.weight: expected shape [95, 64]"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(changes, words, tmp_path):
    assert words in refusal(small_file(tmp_path, **changes))


def test_an_array_of_equal_numbers_is_one_number(tmp_path):
    file = small_file(tmp_path, **{"ARCH.attention.head_count_kv": [2, 2]})
    assert open_checkpoint(file).config.num_key_value_heads == 2


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    file = small_file(tmp_path, **{"ARCH.attention.sliding_window": 128})
    assert open_checkpoint(file).config.model_type == "llama"
    config = {**SMALL_LLAMA, "model_type": "qwen2"}
    keys = {"ARCH.attention.sliding_window": 16}
    qwen = write_model(tmp_path / "q.gguf", config, random_tensors(config), **keys)
    assert "qwen2.attention.sliding_window is not supported" in refusal(qwen)
