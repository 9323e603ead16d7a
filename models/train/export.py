"""Write a checkpoint as a model folder that transformers (and llama-cu) loads.

    python export.py CHECKPOINT.pt [MORE.pt ...] --tokenizer tokenizer.json --out models/story

Several checkpoints are averaged, by equal parts or by those of `--parts`. A file is written beside
its place and then renamed, so whoever reads the folder never sees half a file.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from model import Llama, ModelConfig, load_checkpoint
from tokenizer import END, IM_END, IM_START, STORY, add_start_token

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SAMPLING = {
    "story": {"temperature": 0.65, "top_k": 50, "top_p": 0.9},
    "chat": {"temperature": 0.4, "top_k": 40, "top_p": 0.9},
}
MARKS = {"story": (STORY, END), "chat": (IM_START, IM_END)}


def average(paths: list[Path], parts: list[float]) -> Llama:
    models = [load_checkpoint(path) for path in paths]
    states = [model.state_dict() for model in models]
    shares = [part / sum(parts) for part in parts]
    mean = {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }
    models[0].load_state_dict(mean)
    return models[0]


def hf_weights(model: Llama, dtype: torch.dtype) -> dict[str, Tensor]:
    """Our fused matrices taken apart, under the names that Llama checkpoints use."""
    c = model.config
    q_size, kv_size = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    weights = {
        "model.embed_tokens.weight": model.embed_tokens.weight,
        "model.norm.weight": model.norm,
    }
    for index, layer in enumerate(model.layers):
        q, k, v = layer.qkv_proj.weight.split([q_size, kv_size, kv_size])
        gate, up = layer.gate_up_proj.weight.chunk(2)
        parts = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": layer.o_proj.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down_proj.weight,
            "input_layernorm": layer.input_layernorm,
            "post_attention_layernorm": layer.post_attention_layernorm,
        }
        weights |= {f"model.layers.{index}.{name}.weight": w for name, w in parts.items()}
    return {name: w.detach().to(dtype).contiguous() for name, w in weights.items()}


def hf_config(config: ModelConfig, start_id: int, end_id: int, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": start_id,
        "eos_token_id": end_id,
        "torch_dtype": dtype,
    }


def write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_json(path: Path, content: dict[str, object]) -> None:
    write(path, (json.dumps(content, indent=2) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--parts", type=float, nargs="+", help="of the mean, one a checkpoint")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=("story", "chat"), required=True)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float16")
    parser.add_argument("--context", type=int, default=512, help="max_position_embeddings")
    args = parser.parse_args()
    parts = args.parts or [1.0] * len(args.checkpoints)
    if len(parts) != len(args.checkpoints):
        parser.error(f"--parts must be {len(args.checkpoints)}, one a checkpoint, got {len(parts)}")

    model = average(args.checkpoints, parts)
    config = replace(model.config, max_position_embeddings=args.context)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    start, end = MARKS[args.kind]
    start_id, end_id = tokenizer.token_to_id(start), tokenizer.token_to_id(end)
    tokenizer_config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": start,
        "eos_token": end,
        "add_bos_token": args.kind == "story",
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": args.context,
    }
    if args.kind == "story":
        add_start_token(tokenizer)
    else:
        tokenizer_config["chat_template"] = CHAT_TEMPLATE

    args.out.mkdir(parents=True, exist_ok=True)
    weights = hf_weights(model, getattr(torch, args.dtype))
    write(args.out / "model.safetensors", save(weights, {"format": "pt"}))
    write(args.out / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
    write_json(args.out / "tokenizer_config.json", tokenizer_config)
    write_json(args.out / "special_tokens_map.json", {"bos_token": start, "eos_token": end})
    write_json(args.out / "config.json", hf_config(config, start_id, end_id, args.dtype))
    write_json(
        args.out / "generation_config.json",
        {"bos_token_id": start_id, "eos_token_id": end_id, "do_sample": True} | SAMPLING[args.kind],
    )
    parameters = sum(w.numel() for w in weights.values())
    print(f"{args.out}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
