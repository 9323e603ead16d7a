"""The golden cases: one small random checkpoint per architecture, RoPE type and config style."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROMPT_LEN = 40
NUM_GREEDY = 32


@dataclass(frozen=True)
class Case:
    """config.json, how its random weights are made and stored, and what the prompt is."""

    config: dict[str, Any]
    seed: int = 0
    file_dtype: str = "float32"
    prompt_len: int = PROMPT_LEN
    generation_config: dict[str, Any] = field(default_factory=dict)


def _case(model_type: str, changes: dict[str, Any], **case: Any) -> Case:
    base: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return Case({**base, **changes}, **case)


def _version_4(theta: float, scaling: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": "float32", **more}


def _version_5(theta: float, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": theta, **parameters}, "dtype": "float32", **more}


# Frequencies alone, at the sizes of real checkpoints: config.json, and the lengths to look at.
ROPE_CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "default-64": ({"head_dim": 64, "rope_theta": 10000.0}, (1,)),
    "default-80": ({"head_dim": 80, "rope_theta": 1000000}, (1,)),
    "linear": ({"head_dim": 128, "rope_scaling": {"type": "linear", "factor": 8}}, (1,)),
    "dynamic": (
        {
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        (1, 4096, 4097, 5000, 8191, 8192),
    ),
    "dynamic-5": (
        {
            "head_dim": 96,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.5, "rope_theta": 500000.0},
        },
        (2048, 2049, 7000),
    ),
    "llama3": (
        {
            "head_dim": 128,
            "rope_theta": 500000.0,
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
        (1,),
    ),
    "yarn": (
        {
            "head_dim": 128,
            "rope_theta": 1000000.0,
            "max_position_embeddings": 32768,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
            },
        },
        (1,),
    ),
    "yarn-no-original": (
        {
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "yarn", "factor": 16, "beta_fast": 24, "beta_slow": 2},
        },
        (1,),
    ),
    "yarn-not-truncated": (
        {
            "head_dim": 96,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_theta": 150000.0,
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "mscale": 1.2,
                "mscale_all_dim": 0.8,
                "truncate": False,
            },
        },
        (1,),
    ),
}

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_DEFAULT = {"rope_type": "default"}

CASES: dict[str, Case] = {
    "llama-mha": _case(
        "llama", {**_version_4(10000.0), "num_key_value_heads": 4, "num_hidden_layers": 3}, seed=1
    ),
    "llama-gqa": _case(
        "llama",
        _version_5(10000.0, _DEFAULT, eos_token_id=[2, 7]),
        seed=2,
        file_dtype="bfloat16",
    ),
    "llama-mqa": _case(
        "llama",
        {**_version_4(10000.0), "num_key_value_heads": 1},
        seed=103,
        file_dtype="float16",
        generation_config={"eos_token_id": [5, 9], "temperature": 0.6, "do_sample": True},
    ),
    "llama-head-dim": _case("llama", {**_version_4(10000.0), "head_dim": 32}, seed=4),
    "llama-bias": _case(
        "llama", {**_version_5(500.0, _DEFAULT), "attention_bias": True, "mlp_bias": True}, seed=5
    ),
    "llama-tied": _case("llama", {**_version_4(10000.0), "tie_word_embeddings": True}, seed=6),
    "llama-linear": _case("llama", _version_4(10000.0, {"type": "linear", "factor": 4.0}), seed=7),
    "llama-linear-5": _case(
        "llama", _version_5(1000.0, {"rope_type": "linear", "factor": 2.5}), seed=108
    ),
    "llama-dynamic": _case(
        "llama",
        _version_4(10000.0, {"type": "dynamic", "factor": 4.0}, max_position_embeddings=32),
        seed=9,
    ),
    "llama-dynamic-border": _case(
        "llama",
        _version_5(10000.0, {"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=48),
        seed=10,
    ),
    "llama-llama3": _case("llama", _version_4(1000.0, _LLAMA3), seed=111),
    "llama-llama3-5": _case("llama", _version_5(500000.0, _LLAMA3, head_dim=32), seed=12),
    "llama-yarn": _case("llama", _version_4(1000.0, _YARN), seed=13),
    "llama-yarn-mscale": _case(
        "llama",
        _version_5(
            1000.0,
            {
                **_YARN,
                "mscale": 1.0,
                "mscale_all_dim": 0.7,
                "beta_fast": 8.0,
                "beta_slow": 2.0,
                "truncate": False,
            },
        ),
        seed=14,
    ),
    "llama-yarn-attention-factor": _case(
        "llama", _version_4(1000.0, {**_YARN, "attention_factor": 0.8}, head_dim=32), seed=15
    ),
    "mistral-window": _case(
        "mistral", {**_version_4(10000.0), "sliding_window": 12}, seed=16, file_dtype="bfloat16"
    ),
    "mistral-full": _case(
        "mistral", {**_version_5(1e6, _DEFAULT), "sliding_window": None, "head_dim": 24}, seed=217
    ),
    "qwen2": _case("qwen2", _version_4(1e6, sliding_window=16, use_sliding_window=False), seed=18),
    "qwen2-window": _case(
        "qwen2",
        _version_4(
            10000.0,
            sliding_window=12,
            use_sliding_window=True,
            max_window_layers=1,
            num_hidden_layers=3,
        ),
        seed=19,
    ),
    "qwen2-layer-types": _case(
        "qwen2",
        _version_5(
            10000.0,
            _DEFAULT,
            sliding_window=9,
            use_sliding_window=True,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        seed=120,
        file_dtype="bfloat16",
    ),
    "qwen3": _case(
        "qwen3", {**_version_4(1e6), "head_dim": 32, "tie_word_embeddings": True}, seed=121
    ),
    "qwen3-window": _case(
        "qwen3",
        _version_5(
            10000.0,
            _YARN,
            head_dim=16,
            attention_bias=True,
            sliding_window=10,
            use_sliding_window=True,
            max_window_layers=1,
        ),
        seed=22,
    ),
}
