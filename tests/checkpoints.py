"""Random checkpoints in Hugging Face layout, the same on every machine for the same seed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

FILE_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
EMBED_TOKENS, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"

SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_checkpoint(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
    tied_name: str = EMBED_TOKENS,
) -> Path:
    """Write config.json and model.safetensors for config.json's content; returns the folder."""
    config = SMALL_LLAMA if config is None else config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tensors = random_tensors(config, seed=seed, tied_name=tied_name)
    rounded = {name: tensor.astype(FILE_DTYPES[dtype]) for name, tensor in tensors.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_tensors(
    config: dict[str, Any], *, seed: int = 0, tied_name: str = EMBED_TOKENS
) -> dict[str, np.ndarray]:
    """float32 weights of any supported config.json, lively enough that attention is not flat."""
    generator = np.random.PCG64(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    num_heads, model_type = config["num_attention_heads"], config["model_type"]
    num_kv_heads = config.get("num_key_value_heads") or num_heads
    head_dim = config.get("head_dim") or hidden // num_heads
    attention_bias = bool(config.get("attention_bias"))
    qkv_bias = attention_bias or model_type == "qwen2"
    tensors: dict[str, np.ndarray] = {}

    def norm(name: str, size: int) -> None:
        tensors[name] = 1 + 0.3 * noise(generator, (size,))

    def linear(name: str, out_size: int, in_size: int, *, bias: bool, gain: float = 1.0) -> None:
        weight = noise(generator, (out_size, in_size))
        tensors[f"{name}.weight"] = weight * np.float32(gain / math.sqrt(in_size))
        if bias:
            tensors[f"{name}.bias"] = np.float32(0.3) * noise(generator, (out_size,))

    table = (config["vocab_size"], hidden)
    if config.get("tie_word_embeddings"):
        tensors[tied_name] = np.float32(0.15) * noise(generator, table)
    else:
        tensors[EMBED_TOKENS] = noise(generator, table)
        linear("lm_head", *table, bias=False, gain=2.0)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        mlp_bias = bool(config.get("mlp_bias"))
        norm(f"{prefix}.input_layernorm.weight", hidden)
        linear(f"{attention}.q_proj", num_heads * head_dim, hidden, bias=qkv_bias, gain=1.5)
        linear(f"{attention}.k_proj", num_kv_heads * head_dim, hidden, bias=qkv_bias, gain=1.5)
        linear(f"{attention}.v_proj", num_kv_heads * head_dim, hidden, bias=qkv_bias)
        linear(f"{attention}.o_proj", hidden, num_heads * head_dim, bias=attention_bias)
        if model_type == "qwen3":
            norm(f"{attention}.q_norm.weight", head_dim)
            norm(f"{attention}.k_norm.weight", head_dim)
        norm(f"{prefix}.post_attention_layernorm.weight", hidden)
        linear(f"{mlp}.gate_proj", inner, hidden, bias=mlp_bias)
        linear(f"{mlp}.up_proj", inner, hidden, bias=mlp_bias)
        linear(f"{mlp}.down_proj", hidden, inner, bias=mlp_bias)
    norm("model.norm.weight", hidden)
    return tensors


def noise(generator: np.random.PCG64, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float32 of mean 0 and variance 1.

    NumPy promises the raw bits of a generator for ever, but not what distributions make of them.
    """
    raw = generator.random_raw(math.prod(shape)) >> np.uint64(40)
    centred = raw.astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return (centred * np.float32(math.sqrt(3))).reshape(shape)


def random_ids(num_tokens: int, vocab_size: int, *, seed: int) -> list[int]:
    """Token ids from the same lasting source."""
    raw = np.random.PCG64(seed).random_raw(num_tokens)
    return [int(value % np.uint64(vocab_size)) for value in raw]
