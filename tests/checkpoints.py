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
    draw = _Draw(seed)
    table = (config["vocab_size"], config["hidden_size"])
    if config.get("tie_word_embeddings"):
        draw.tensors[tied_name] = np.float32(0.15) * draw.noise(table)
    else:
        draw.tensors[EMBED_TOKENS] = draw.noise(table)
        draw.linear(LM_HEAD.removesuffix(".weight"), table, gain=2.0)
    for layer in range(config["num_hidden_layers"]):
        _draw_layer(draw, config, f"model.layers.{layer}")
    draw.norm("model.norm", config["hidden_size"])
    return draw.tensors


def _draw_layer(draw: _Draw, config: dict[str, Any], prefix: str) -> None:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    num_heads, model_type = config["num_attention_heads"], config["model_type"]
    head_dim = config.get("head_dim") or hidden // num_heads
    q_size = num_heads * head_dim
    kv_size = (config.get("num_key_value_heads") or num_heads) * head_dim
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    attention_bias = bool(config.get("attention_bias"))
    qkv_bias, mlp_bias = attention_bias or model_type == "qwen2", bool(config.get("mlp_bias"))
    draw.norm(f"{prefix}.input_layernorm", hidden)
    draw.linear(f"{attention}.q_proj", (q_size, hidden), bias=qkv_bias, gain=1.5)
    draw.linear(f"{attention}.k_proj", (kv_size, hidden), bias=qkv_bias, gain=1.5)
    draw.linear(f"{attention}.v_proj", (kv_size, hidden), bias=qkv_bias)
    draw.linear(f"{attention}.o_proj", (hidden, q_size), bias=attention_bias)
    if model_type == "qwen3":
        draw.norm(f"{attention}.q_norm", head_dim)
        draw.norm(f"{attention}.k_norm", head_dim)
    draw.norm(f"{prefix}.post_attention_layernorm", hidden)
    draw.linear(f"{mlp}.gate_proj", (inner, hidden), bias=mlp_bias)
    draw.linear(f"{mlp}.up_proj", (inner, hidden), bias=mlp_bias)
    draw.linear(f"{mlp}.down_proj", (hidden, inner), bias=mlp_bias)


class _Draw:
    """Tensors by name, drawn one after the other from one generator.

    NumPy promises a generator's raw bits for ever, but not what its distributions make of them.
    """

    def __init__(self, seed: int) -> None:
        self.generator = np.random.PCG64(seed)
        self.tensors: dict[str, np.ndarray] = {}

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform float32 of mean 0 and variance 1."""
        raw = self.generator.random_raw(math.prod(shape)) >> np.uint64(40)
        centred = raw.astype(np.float32) / np.float32(1 << 23) - np.float32(1)
        return (centred * np.float32(math.sqrt(3))).reshape(shape)

    def norm(self, name: str, size: int) -> None:
        self.tensors[f"{name}.weight"] = np.float32(1) + np.float32(0.3) * self.noise((size,))

    def linear(
        self, name: str, shape: tuple[int, int], *, bias: bool = False, gain: float = 1.0
    ) -> None:
        scale = np.float32(gain / math.sqrt(shape[1]))
        self.tensors[f"{name}.weight"] = self.noise(shape) * scale
        if bias:
            self.tensors[f"{name}.bias"] = np.float32(0.3) * self.noise((shape[0],))


def random_ids(num_tokens: int, vocab_size: int, *, seed: int) -> list[int]:
    """Token ids from the same lasting source."""
    raw = np.random.PCG64(seed).random_raw(num_tokens)
    return [int(value % np.uint64(vocab_size)) for value in raw]
