"""Llama in torch, for training only: RMSNorm, rotary positions, grouped queries, SwiGLU."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 448
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


# A layer's tensors, and those of an exported layer that each is put together from
_FUSED = {
    "qkv_proj.weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj.weight": ("self_attn.o_proj",),
    "gate_up_proj.weight": ("mlp.gate_proj", "mlp.up_proj"),
    "down_proj.weight": ("mlp.down_proj",),
    "input_layernorm": ("input_layernorm",),
    "post_attention_layernorm": ("post_attention_layernorm",),
}


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        hidden, width = config.hidden_size, config.intermediate_size
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.qkv_proj = nn.Linear(hidden, q_size + 2 * kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, hidden, bias=False)
        self.gate_up_proj = nn.Linear(hidden, 2 * width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        eps, hidden = self.config.rms_norm_eps, (self.config.hidden_size,)
        normed = F.rms_norm(x, hidden, self.input_layernorm, eps)
        x = x + self._drop(self._attention(normed, cos, sin))
        normed = F.rms_norm(x, hidden, self.post_attention_layernorm, eps)
        gate, up = self.gate_up_proj(normed).chunk(2, dim=-1)
        return x + self._drop(self.down_proj(F.silu(gate) * up))

    def _attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The query heads of a KV head are rows of one product, which short rows like best."""
        c = self.config
        rows, length, _ = x.shape
        num_kv = c.num_key_value_heads
        heads = self.qkv_proj(x).view(rows, length, -1, c.head_dim).transpose(1, 2)
        rotated = rotate(heads[:, :-num_kv], cos, sin)
        q, k = rotated.split([c.num_attention_heads, num_kv], dim=1)
        q = q.reshape(rows * num_kv, -1, c.head_dim) * c.head_dim**-0.5
        k, v = (part.reshape(rows * num_kv, length, -1) for part in (k, heads[:, -num_kv:]))
        later = torch.full((length, length), float("-inf")).triu(1)
        scores = torch.bmm(q, k.transpose(1, 2)).unflatten(1, (-1, length)) + later
        mixed = torch.bmm(scores.softmax(dim=-1).flatten(1, 2).to(v.dtype), v)
        mixed = mixed.view(rows, c.num_attention_heads, length, -1)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Llama(nn.Module):
    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        positions = torch.arange(config.max_position_embeddings)
        steps = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(positions, config.rope_theta**-steps)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                std = 0.02 if "embed" in name else config.hidden_size**-0.5 / 2
                scale = 0.3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(weight, std=std * scale)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Hidden states after the last norm: [rows, length, hidden_size]."""
        length = token_ids.shape[1]
        x = F.dropout(self.embed_tokens(token_ids), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return F.rms_norm(x, (self.config.hidden_size,), self.norm, self.config.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed_tokens.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, first half of a head against second, as Llama has it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def save_checkpoint(path: Path, config: ModelConfig, weights: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"config": json.dumps(asdict(config)), "weights": weights}, partial)
    partial.replace(path)


def load_checkpoint(path: Path, dropout: float = 0.0) -> Llama:
    """A model from a checkpoint of train.py, or from a folder that export.py wrote."""
    if path.is_dir():
        return _load_exported(path, dropout)
    saved = torch.load(path, weights_only=True)
    model = Llama(ModelConfig(**json.loads(saved["config"])), dropout)
    model.load_state_dict(saved["weights"])
    return model


def _load_exported(folder: Path, dropout: float) -> Llama:
    config = json.loads((folder / "config.json").read_text())
    names = [field.name for field in fields(ModelConfig) if field.name in config]
    sizes = {name: config[name] for name in names if name != "max_position_embeddings"}
    model = Llama(ModelConfig(**sizes), dropout)
    given = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
    weights = {"embed_tokens.weight": given["model.embed_tokens.weight"]}
    weights["norm"] = given["model.norm.weight"]
    for index in range(model.config.num_hidden_layers):
        layer = f"layers.{index}"
        for name, parts in _FUSED.items():
            matrices = [given[f"model.{layer}.{part}.weight"] for part in parts]
            weights[f"{layer}.{name}"] = torch.cat(matrices)
    model.load_state_dict(weights)
    return model
