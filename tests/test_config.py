from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.config import GenerationDefaults, load_config
from llama_cu.checkpoint.rope import RopeConfig
from llama_cu.errors import ModelError
from tests.checkpoints import SMALL_LLAMA, random_checkpoint

REQUIRED = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
ABSENT = object()


def write(folder: Path, fields: dict, generation: dict | None = None) -> Path:
    present = {name: value for name, value in fields.items() if value is not ABSENT}
    (folder / "config.json").write_text(json.dumps(present))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def load(folder: Path, fields: dict, generation: dict | None = None):
    return load_config(write(folder, fields, generation))


@pytest.mark.parametrize(
    ("model_type", "kv_heads", "head_dim", "positions", "windows", "biases", "ids"),
    [
        ("llama", 4, 16, 2048, (None,) * 3, (False, False), (1, (2,))),
        ("qwen2", 32, 16, 32768, (None,) * 3, (True, False), (None, ())),
        ("qwen3", 32, 128, 32768, (None,) * 3, (False, False), (None, ())),
        ("mistral", 8, 16, 131072, (4096,) * 3, (False, False), (1, (2,))),
    ],
)
def test_absent_fields_take_the_defaults_of_transformers(
    model_type, kv_heads, head_dim, positions, windows, biases, ids, tmp_path
):
    num_heads = {"llama": 4, "mistral": 8}.get(model_type, 32)
    fields = {**REQUIRED, "num_attention_heads": num_heads, "hidden_size": 16 * num_heads}
    config = load(tmp_path, {**fields, "model_type": model_type})
    assert config.num_key_value_heads == kv_heads
    assert config.head_dim == head_dim
    assert config.max_position_embeddings == positions
    assert config.sliding_windows == windows
    assert (config.qkv_bias, config.o_bias) == biases
    assert (config.bos_token_id, config.eos_token_ids) == ids
    assert config.qk_norm == (model_type == "qwen3")
    assert config.rms_norm_eps == 1e-6
    assert config.rope == RopeConfig()
    assert config.dtype == "float32"
    assert not (config.tie_word_embeddings or config.mlp_bias)


def test_null_is_one_kv_head_per_head_and_no_special_tokens(tmp_path):
    nulls = ("num_key_value_heads", "head_dim", "bos_token_id", "eos_token_id", "rope_scaling")
    config = load(tmp_path, {**REQUIRED, "model_type": "mistral", **dict.fromkeys(nulls)})
    assert (config.num_key_value_heads, config.head_dim) == (4, 16)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


def test_attention_bias_covers_the_output_projection_but_not_for_qwen2(tmp_path):
    biased = {**SMALL_LLAMA, "attention_bias": True, "mlp_bias": True}
    llama = load(tmp_path, biased)
    qwen2 = load(tmp_path, {**biased, "model_type": "qwen2", "mlp_bias": False})
    assert (llama.qkv_bias, llama.o_bias, llama.mlp_bias) == (True, True, True)
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.mlp_bias) == (True, False, False)


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, (64, 64, 64)),
        ({"model_type": "mistral", "sliding_window": None}, (None, None, None)),
        ({"model_type": "llama", "sliding_window": 64}, (None, None, None)),
        ({"model_type": "qwen2", "sliding_window": 64}, (None, None, None)),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 64,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            (None, 64, 64),
        ),
        (
            {
                "model_type": "qwen3",
                "sliding_window": 9,
                "use_sliding_window": True,
                "max_window_layers": 1,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (9, None, 9),
        ),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 3}, (None, None, None)),
    ],
)
def test_sliding_windows_are_resolved_per_layer(fields, windows, tmp_path):
    config = load(tmp_path, {**REQUIRED, "num_key_value_heads": 2, **fields})
    assert config.sliding_windows == windows


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("version_4", "version_5", "rope"),
    [
        (
            {"rope_theta": 5e5, "rope_scaling": None},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            RopeConfig(rope_theta=5e5),
        ),
        (
            {"rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}},
            RopeConfig("linear", 1e5, 2.0),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            RopeConfig("llama3", 5e5, 8.0, 8192, 1.0, 4.0),
        ),
        (
            {"rope_scaling": {"type": "yarn", "rope_type": "yarn", "factor": 4.0}},
            {
                "rope_parameters": {
                    kind: {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
                    for kind in ("full_attention", "sliding_attention")
                }
            },
            RopeConfig("yarn", 1e4, 4.0, 128),
        ),
        (
            {
                "original_max_position_embeddings": 64,
                "rope_scaling": {"type": "yarn", "factor": None, "beta_fast": 0, "mscale": 0.5},
            },
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "mscale": 0.5,
                    "original_max_position_embeddings": 64,
                }
            },
            RopeConfig("yarn", 1e4, 2.0, 64, mscale=0.5),
        ),
    ],
)
def test_both_config_styles_mean_the_same_rope(version_4, version_5, rope, tmp_path):
    old = load(tmp_path, {**SMALL_LLAMA, **version_4, "torch_dtype": "bfloat16"})
    new = load(tmp_path, {**SMALL_LLAMA, **version_5, "dtype": "bfloat16"})
    assert old.rope == rope
    assert new == old
    assert new.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("truncate", "truncates"), [(ABSENT, True), (True, True), (False, False), (None, False)]
)
def test_yarn_is_truncated_where_transformers_does(truncate, truncates, tmp_path):
    scaling = {"rope_type": "yarn", "factor": 2.0}
    if truncate is not ABSENT:
        scaling["truncate"] = truncate
    assert load(tmp_path, {**SMALL_LLAMA, "rope_scaling": scaling}).rope.truncate is truncates


def test_generation_config_replaces_the_ids_and_brings_sampling_defaults(tmp_path):
    generation = {
        "eos_token_id": [5, 9],
        "bos_token_id": 3,
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
    }
    config = load(tmp_path, {**SMALL_LLAMA, "eos_token_id": [2, 7]}, generation)
    assert (config.bos_token_id, config.eos_token_ids) == (3, (5, 9))
    assert config.generation == GenerationDefaults(True, 0.6, 20, 0.95, None, 1.05)


def test_a_silent_generation_config_leaves_the_ids_and_no_defaults(tmp_path):
    config = load(tmp_path, {**SMALL_LLAMA, "eos_token_id": [2, 7]}, {"_from_model_config": True})
    assert config.eos_token_ids == (2, 7)
    assert config.generation == GenerationDefaults()


def test_without_a_dtype_field_the_weights_decide(tmp_path):
    random_checkpoint(tmp_path, dtype="bfloat16")
    assert load_config(tmp_path).dtype == "bfloat16"
    save_file({"x": np.arange(4, dtype=np.float16)}, tmp_path / "model.safetensors")
    assert load_config(tmp_path).dtype == "float16"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "gemma3"}, 'model_type must be one of llama.* got "gemma3"'),
        ({"model_type": ABSENT}, "model_type is required and missing"),
        ({"hidden_size": ABSENT}, "hidden_size is required and missing"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive integer, got -1"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers must be at most 4096, got 10+$"),
        ({"intermediate_size": 96.0}, "intermediate_size must be a positive integer, got 96.0"),
        ({"vocab_size": True}, "vocab_size must be a positive integer, got true"),
        ({"hidden_size": "64"}, 'hidden_size must be a positive integer, got "64"'),
        ({"num_key_value_heads": 3}, r"num_key_value_heads must divide .* \(4\), got 3"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, "num_attention_heads must divide"),
        ({"head_dim": 15}, "head_dim must be even, got 15"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps must be a finite number"),
        ({"tie_word_embeddings": "yes"}, 'tie_word_embeddings must be true or false, got "yes"'),
        ({"hidden_act": "gelu"}, 'hidden_act must be silu, got "gelu"'),
        ({"num_local_experts": 8}, "num_local_experts is not supported, got 8"),
        ({"num_experts": 64}, "num_experts is not supported, got 64"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported, got"),
        ({"torch_dtype": "float64"}, 'torch_dtype must be one of float32.* got "float64"'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, got 0.5"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id"),
        ({"rope_theta": 0}, "rope_theta must be a finite number above 0, got 0"),
        ({"rope_scaling": "linear"}, "rope_scaling must be a JSON object"),
        ({"rope_scaling": {"type": "longrope"}}, 'rope_scaling: type must be .* got "longrope"'),
        ({"rope_parameters": {"rope_type": "x"}}, 'rope_parameters: rope_type .* got "x"'),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is required and missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor must be .* at least 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": 1}}, "truncate must be true"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "mscale": -1}},
            "mscale must be .* least 0",
        ),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            },
            "rope_scaling contradicts rope_parameters",
        ),
        ({"rope_interleaved": True}, "rope_interleaved is not supported, got true"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "contradicts"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "low_freq_factor is required"),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1}},
            r"high_freq_factor must be above low_freq_factor \(1\), got 1",
        ),
        (
            {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}},
            "rope_type needs a head_dim above 2",
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            "must be the same for every layer type",
        ),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias must be false"),
        ({"model_type": "qwen3", "mlp_bias": True}, "mlp_bias must be false"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a positive"),
        ({"layer_types": ["chunked_attention"] * 2}, "layer_types must be a list of"),
        ({"layer_types": ["full_attention"]}, r"must have num_hidden_layers \(2\) entries"),
        ({"layer_types": ["sliding_attention"] * 2}, "no sliding_window is in use"),
        (
            {
                "model_type": "mistral",
                "sliding_window": 8,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            "layer_types contradicts sliding_window 8",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_field_and_value(fields, words, tmp_path):
    write(tmp_path, {**SMALL_LLAMA, **fields})
    with pytest.raises(ModelError, match=words) as refusal:
        load_config(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"top_p": 0}, "top_p must be a finite number above 0"),
        ({"top_k": -1}, "top_k must be an integer of at least 0"),
        ({"do_sample": 1}, "do_sample must be true or false"),
        ({"eos_token_id": [1, None]}, "eos_token_id must be a token id"),
    ],
)
def test_a_bad_generation_config_is_refused(generation, words, tmp_path):
    write(tmp_path, SMALL_LLAMA, generation)
    with pytest.raises(ModelError, match=rf"generation_config.json: {words}"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"a": 1} x'])
def test_a_file_that_is_not_a_json_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json: (not a JSON file|expected a JSON object)"):
        load_config(tmp_path)


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(ModelError, match="not a JSON file"):
        load_config(tmp_path)


def test_a_missing_folder_and_a_missing_config_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere: expected a folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        open_checkpoint(tmp_path)


def test_a_number_that_no_float_holds_is_refused_by_name(tmp_path):
    fields = {"model_type": "llama", **REQUIRED, "rms_norm_eps": 10**400}
    with pytest.raises(ModelError, match="rms_norm_eps must be a finite number"):
        load(tmp_path, fields)
