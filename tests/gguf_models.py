"""The random checkpoints of `checkpoints.py` as GGUF files, as the usual converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.gguf_files import Stored, float_tensor, write_gguf

PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    if name in OTHERS:
        return OTHERS[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def turned(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """q or k with rows i and i + half of a head side by side, as llama's GGUF files have them."""
    out = np.empty_like(weight)
    size = weight.shape[0] // num_heads
    for head in range(num_heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = weight[head * size + i]
            out[head * size + 2 * i + 1] = weight[head * size + size // 2 + i]
    return out


def gguf_tensors(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by GGUF's names, in GGUF's order of rows."""
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    found = {}
    for name, tensor in tensors.items():
        part = name.split(".")[-2]
        if config["model_type"] in ("llama", "mistral") and part in ("q_proj", "k_proj"):
            tensor = turned(tensor, heads[part[0]])
        found[gguf_name(name)] = tensor
    return found


def gguf_metadata(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Metadata of a config.json; a change to None leaves a key out, and "ARCH." stands for it."""
    kind = config["model_type"]
    arch = "llama" if kind == "mistral" else kind
    metadata = {
        "general.architecture": arch,
        "ARCH.context_length": config["max_position_embeddings"],
        "ARCH.embedding_length": config["hidden_size"],
        "ARCH.block_count": config["num_hidden_layers"],
        "ARCH.feed_forward_length": config["intermediate_size"],
        "ARCH.attention.head_count": config["num_attention_heads"],
        "ARCH.attention.head_count_kv": config["num_key_value_heads"],
        "ARCH.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }
    if "head_dim" in config:
        metadata["ARCH.attention.key_length"] = config["head_dim"]
        metadata["ARCH.attention.value_length"] = config["head_dim"]
    if "rope_theta" in config:
        metadata["ARCH.rope.freq_base"] = float(config["rope_theta"])
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        if name in config:
            metadata[f"tokenizer.ggml.{key}_token_id"] = config[name]
    metadata |= changes
    return {
        key.replace("ARCH.", f"{arch}."): value
        for key, value in metadata.items()
        if value is not None
    }


def write_model(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    *,
    kind: str = "F32",
    extra: dict[str, Stored] | None = None,
    **changes: Any,
) -> Path:
    """A GGUF file of a config.json and Hugging Face's tensors; vectors stay float32."""
    stored = {
        name: float_tensor(tensor, kind if tensor.ndim > 1 else "F32")
        for name, tensor in gguf_tensors(config, tensors).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(path, gguf_metadata(config, **changes), stored | (extra or {}))
