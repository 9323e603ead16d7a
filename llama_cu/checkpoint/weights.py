"""The weights of a model: their names in a checkpoint, their shapes, and what is fused of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.gguf_quants import BlockType

Array = Any
Shapes = dict[str, tuple[int, ...]]
BlockTypes = dict[str, tuple[BlockType, ...]]

EMBED_TOKENS, NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One decoder layer. Matrices are [out_size, in_size]; None: the model has no such part."""

    input_layernorm: Array  # [hidden_size]
    qkv_proj: Array  # [(num_heads + 2 num_kv_heads) * head_dim, hidden_size]: q, then k, then v
    qkv_bias: Array | None
    q_norm: Array | None  # [head_dim]
    k_norm: Array | None  # [head_dim]
    o_proj: Array  # [hidden_size, num_heads * head_dim]
    o_bias: Array | None
    post_attention_layernorm: Array  # [hidden_size]
    gate_up_proj: Array  # [2 * intermediate_size, hidden_size]: gate, then up
    gate_up_bias: Array | None
    down_proj: Array  # [hidden_size, intermediate_size]
    down_bias: Array | None


# The checkpoint's tensors that make each field of LayerWeights, stacked along the first axis.
LAYER_PARTS = {
    "input_layernorm": ("input_layernorm.weight",),
    "qkv_proj": tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
    "qkv_bias": tuple(f"self_attn.{name}_proj.bias" for name in "qkv"),
    "q_norm": ("self_attn.q_norm.weight",),
    "k_norm": ("self_attn.k_norm.weight",),
    "o_proj": ("self_attn.o_proj.weight",),
    "o_bias": ("self_attn.o_proj.bias",),
    "post_attention_layernorm": ("post_attention_layernorm.weight",),
    "gate_up_proj": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "gate_up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "down_proj": ("mlp.down_proj.weight",),
    "down_bias": ("mlp.down_proj.bias",),
}


# Of these, gate and up are paired in every product.
MATRICES = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
PAIRED = "gate_up_proj"
HEAD, TABLE = "lm_head", "embed_tokens"  # of Weights


@dataclass(frozen=True, eq=False)
class Weights:
    """All weights of a model; `lm_head` is the same array as `embed_tokens` where they are tied."""

    embed_tokens: Array  # [vocab_size, hidden_size]
    layers: tuple[LayerWeights, ...]
    norm: Array  # [hidden_size]
    lm_head: Array  # [vocab_size, hidden_size]


def layer_shapes(config: ModelConfig) -> Shapes:
    """Shapes of one layer's tensors as they are in a checkpoint, without `model.layers.N.`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    shapes: Shapes = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config.qk_norm:
        shapes["self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    for name, out_size, in_size, has_bias in (
        ("self_attn.q_proj", q_size, hidden, config.qkv_bias),
        ("self_attn.k_proj", kv_size, hidden, config.qkv_bias),
        ("self_attn.v_proj", kv_size, hidden, config.qkv_bias),
        ("self_attn.o_proj", hidden, q_size, config.o_bias),
        ("mlp.gate_proj", inner, hidden, config.mlp_bias),
        ("mlp.up_proj", inner, hidden, config.mlp_bias),
        ("mlp.down_proj", hidden, inner, config.mlp_bias),
    ):
        shapes[f"{name}.weight"] = (out_size, in_size)
        if has_bias:
            shapes[f"{name}.bias"] = (out_size,)
    return shapes


def layer_matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices of LayerWeights."""
    shapes = layer_shapes(config)
    return {
        field: (
            sum(shapes[part][0] for part in LAYER_PARTS[field]),
            shapes[LAYER_PARTS[field][0]][1],
        )
        for field in MATRICES
    }


def weight_bytes(config: ModelConfig, dtype: np.dtype[Any]) -> int:
    """Bytes of all weights held in `dtype`; tied embeddings count once."""
    vocab = config.vocab_size * config.hidden_size
    layer = sum(math.prod(shape) for shape in layer_shapes(config).values())
    tables = vocab if config.tie_word_embeddings else 2 * vocab
    total = tables + config.hidden_size + config.num_hidden_layers * layer
    return total * dtype.itemsize


def keeps(field: str, types: Sequence[BlockType]) -> bool:
    """Whether a field of LayerWeights or Weights can be held in its blocks.

    The table that rows are gathered from cannot, nor gate and up of two types.
    """
    same = len(set(types)) == 1
    return field in (*MATRICES, HEAD) and (same or field != PAIRED)
