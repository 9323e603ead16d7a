"""The floor to compare with: a Llama in plain NumPy calls, one sequence, nothing around them.

It does the same products as the engine with the same packed weights, and no more: no batch, no
paged cache, no sampling parameters, no text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.rope import inv_freq_table
from llama_cu.checkpoint.weight_reader import load_weights

Array = Any

_ONE = np.float32(1)


class BareLlama:
    """Greedy generation with the default RoPE, full attention, no biases."""

    def __init__(self, folder: Path, *, max_len: int) -> None:
        self.config = config = open_checkpoint(folder).config
        plain = not (config.qkv_bias or config.o_bias or config.mlp_bias or config.qk_norm)
        if not plain or any(config.sliding_windows) or config.rope.rope_type != "default":
            raise ValueError(
                "the bare loop runs plain Llama only: default RoPE, no bias, no window"
            )
        float32 = np.dtype(np.float32)
        self.weights = load_weights(
            folder, config, dtype=float32, storage_dtype=float32, place=lambda array: array
        )
        angles = np.outer(np.arange(max_len), inv_freq_table(config, max_len)[0])
        self.cos, self.sin = np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)
        shape = (config.num_hidden_layers, 2, config.num_key_value_heads, max_len, config.head_dim)
        self.cache = np.empty(shape, np.float32)
        self.eps = np.float32(config.rms_norm_eps)
        self.scale = np.float32(config.head_dim**-0.5)

    def next_token(self, token_ids: list[int], start: int) -> int:
        """The greedy token after token_ids, which stand at positions start, start + 1, ..."""
        x = self.weights.embed_tokens[token_ids]
        for index, layer in enumerate(self.weights.layers):
            qkv = _product(self._norm(x, layer.input_layernorm), layer.qkv_proj)
            x += _product(self._attention(qkv, self.cache[index], start), layer.o_proj)
            normed = self._norm(x, layer.post_attention_layernorm)
            gate, up = np.split(_product(normed, layer.gate_up_proj), 2, axis=1)
            x += _product(gate / (np.exp(-gate) + _ONE) * up, layer.down_proj)
        return int((self.weights.lm_head @ self._norm(x[-1], self.weights.norm)).argmax())

    def _norm(self, x: Array, weight: Array) -> Array:
        size = np.float32(x.shape[-1])
        return x / np.sqrt(np.vecdot(x, x)[..., None] / size + self.eps) * weight

    def _attention(self, qkv: Array, cache: Array, start: int) -> Array:
        config, num_tokens = self.config, len(qkv)
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        stop = start + num_tokens
        heads = qkv.reshape(num_tokens, -1, config.head_dim).swapaxes(0, 1)
        self._rotate(heads[: num_heads + num_kv_heads], start)
        cache[0, :, start:stop] = heads[num_heads : num_heads + num_kv_heads]
        cache[1, :, start:stop] = heads[num_heads + num_kv_heads :]
        k, v = cache[:, :, :stop]
        q = (heads[:num_heads] * self.scale).reshape(num_kv_heads, -1, config.head_dim)
        scores = (q @ k.swapaxes(1, 2)).reshape(num_heads, num_tokens, stop)
        if num_tokens > 1:
            scores += np.triu(np.full((num_tokens, stop), -np.inf, np.float32), start + 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        out = scores.reshape(num_kv_heads, -1, stop) @ v
        return out.reshape(num_heads, num_tokens, -1).swapaxes(0, 1).reshape(num_tokens, -1)

    def _rotate(self, heads: Array, start: int) -> None:
        half, stop = heads.shape[-1] // 2, start + heads.shape[1]
        cos, sin = self.cos[start:stop], self.sin[start:stop]
        first, second = heads[..., :half], heads[..., half:]
        rotated = first * cos - second * sin
        heads[..., half:] = second * cos + first * sin
        heads[..., :half] = rotated


def _product(x: Array, weight: Array) -> Array:
    # For one row a matrix-vector product reads the weight once; @ would pack it first.
    return (weight @ x[0])[None] if len(x) == 1 else x @ weight.T
