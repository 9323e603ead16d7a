"""How many bytes a decode step has to read, and how many flops a prefill has to compute."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.weights import (
    HEAD,
    Weights,
    layer_matrices,
    layer_shapes,
    weight_bytes,
)
from llama_cu.ops.cuda_quantized import packed_bytes
from llama_cu.ops.int8_cache import row_bytes
from llama_cu.quantized import Scheme, can_quantize


def read_weight_bytes(
    config: ModelConfig, itemsize: int, *, num_rows: int, scheme: Scheme | None = None
) -> int:
    """Bytes of weights that one decode step of so many sequences reads.

    All of them once, but of the embedding table only the rows that are gathered. Where it is
    lm_head too it is read whole, and the gathered rows are part of that. With a scheme the matrices
    are packed, and lm_head is a matrix of its own.
    """
    table = (config.vocab_size, config.hidden_size)
    row = config.hidden_size * itemsize
    total = weight_bytes(config, np.dtype(f"V{itemsize}"))
    if not config.tie_word_embeddings:
        total -= config.vocab_size * row - num_rows * row
    if scheme is None:
        return total
    for shape in layer_matrices(config).values():
        total -= config.num_hidden_layers * _saved_bytes(shape, itemsize, scheme)
    if can_quantize(table) and config.tie_word_embeddings:
        total += num_rows * row
    return total - _saved_bytes(table, itemsize, scheme.of(HEAD))


def held_weight_bytes(weights: Weights, *, num_rows: int) -> int:
    """`read_weight_bytes`, counted in what is held."""
    held = [weights.norm, weights.lm_head]
    for layer in weights.layers:
        held += [getattr(layer, field.name) for field in fields(layer)]
    total = sum(int(array.nbytes) for array in held if array is not None)
    if weights.lm_head is weights.embed_tokens:
        return total
    return total + num_rows * int(weights.embed_tokens.nbytes // weights.embed_tokens.shape[0])


def _saved_bytes(shape: tuple[int, int], itemsize: int, scheme: Scheme) -> int:
    return (
        math.prod(shape) * itemsize - packed_bytes(scheme.form, shape) if can_quantize(shape) else 0
    )


def read_kv_bytes(
    config: ModelConfig, itemsize: int, *, context_lens: Iterable[int], kv_dtype: str = "auto"
) -> int:
    """Bytes of K and V that one decode step reads, for contexts that include the new token."""
    per_key = 2 * config.num_key_value_heads * row_bytes(config.head_dim, kv_dtype, itemsize)
    return per_key * sum(
        min(context_len, window or context_len)
        for context_len in context_lens
        for window in config.sliding_windows
    )


def decode_bytes(
    config: ModelConfig,
    itemsize: int,
    *,
    context_lens: Iterable[int],
    scheme: Scheme | None = None,
    kv_dtype: str = "auto",
) -> int:
    """Bytes that one decode step reads: weights once, and the K and V of every context."""
    context_lens = tuple(context_lens)
    weights = read_weight_bytes(config, itemsize, num_rows=len(context_lens), scheme=scheme)
    return weights + read_kv_bytes(config, itemsize, context_lens=context_lens, kv_dtype=kv_dtype)


def decode_flops(config: ModelConfig, *, context_lens: Iterable[int]) -> int:
    """Multiplications and additions of one decode step's products and attention.

    What norms, RoPE and SwiGLU compute is left out.
    """
    context_lens = tuple(context_lens)
    elements = config.num_hidden_layers * layer_elements(config)
    elements += config.vocab_size * config.hidden_size
    q_size = config.num_attention_heads * config.head_dim
    keys = sum(min(n, window or n) for n in context_lens for window in config.sliding_windows)
    return 2 * elements * len(context_lens) + 4 * q_size * keys


def layer_elements(config: ModelConfig) -> int:
    """Elements of one layer's matrices, without biases and norms."""
    shapes = layer_shapes(config).values()
    return sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def prefill_flops(config: ModelConfig, *, prompt_len: int) -> int:
    """Multiplications and additions of the products of one prompt, and of its last token's logits.

    Attention counts the keys that a query sees. What norms, RoPE and SwiGLU compute is left out.
    """
    linear = 2 * prompt_len * config.num_hidden_layers * layer_elements(config)
    q_size = config.num_attention_heads * config.head_dim
    pairs = sum(_seen_keys(prompt_len, window) for window in config.sliding_windows)
    return linear + 4 * pairs * q_size + 2 * config.vocab_size * config.hidden_size


def _seen_keys(num_tokens: int, window: int | None) -> int:
    """Keys that the queries of a prompt see, all together."""
    full = min(num_tokens, window or num_tokens)
    return full * (full + 1) // 2 + (num_tokens - full) * full
