"""Llama, written once against Ops. Reading order: forward, then _attention, then _mlp."""

from __future__ import annotations

from typing import Any

from llama_cu.batch import Batch
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.rope import attention_scaling, inv_freq_table
from llama_cu.checkpoint.weights import LayerWeights, Weights
from llama_cu.kv_cache import KVCache
from llama_cu.ops.base import Ops

Array = Any


class Llama:
    """The Llama family: RMSNorm, RoPE, grouped-query attention, SwiGLU, residual stream.

    What differs between its members (biases, q/k norms, windows, RoPE types) is resolved in the
    checkpoint room and is plain data here.
    """

    def __init__(self, config: ModelConfig, weights: Weights, ops: Ops, *, max_model_len: int):
        self.config = config
        self.weights = weights
        self.ops = ops
        self._inv_freq = ops.upload(inv_freq_table(config, max_model_len))
        self._rope_scaling = attention_scaling(config)
        self._scale = config.head_dim**-0.5

    def forward(self, batch: Batch, cache: KVCache) -> Array:
        """The last layer's output for every token of the batch: [num_tokens, hidden_size].

        K and V of the tokens are stored in the cache on the way.
        """
        ops, eps = self.ops, self.config.rms_norm_eps
        hidden = ops.gather(self.weights.embed_tokens, batch.token_ids)
        cos_sin = ops.rope_angles(
            self._inv_freq, batch.rope_rows, batch.positions, self._rope_scaling
        )
        windows = self.config.sliding_windows
        for layer, kv, window in zip(self.weights.layers, cache.layers, windows, strict=True):
            normed = ops.rms_norm(hidden, layer.input_layernorm, eps)
            attended = self._attention(layer, normed, cos_sin, kv, batch, window)
            hidden = ops.linear(attended, layer.o_proj, layer.o_bias, residual=hidden)
            normed = ops.rms_norm(hidden, layer.post_attention_layernorm, eps)
            activated = self._mlp(layer, normed)
            hidden = ops.linear(activated, layer.down_proj, layer.down_bias, residual=hidden)
        return hidden

    def _attention(
        self,
        layer: LayerWeights,
        x: Array,
        cos_sin: Array,
        kv: tuple[Array, Array],
        batch: Batch,
        window: int | None,
    ) -> Array:
        ops, config = self.ops, self.config
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        qkv = ops.linear(x, layer.qkv_proj, layer.qkv_bias)
        heads = qkv.reshape(-1, num_heads + 2 * num_kv_heads, config.head_dim)
        q, k = heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads]
        v = heads[:, num_heads + num_kv_heads :]
        if layer.q_norm is not None:
            ops.head_norm(q, layer.q_norm, config.rms_norm_eps)
            ops.head_norm(k, layer.k_norm, config.rms_norm_eps)
        ops.rope(heads[:, : num_heads + num_kv_heads], cos_sin)
        ops.store_kv(k, v, *kv, batch.slot_mapping)
        return ops.attention(q, *kv, batch, self._scale, window)

    def _mlp(self, layer: LayerWeights, x: Array) -> Array:
        gate_up = self.ops.linear(x, layer.gate_up_proj, layer.gate_up_bias)
        return self.ops.swiglu(gate_up)

    def logits(self, hidden: Array, rows: Array) -> Array:
        """float32 logits of the given rows of `forward`'s result: [num_rows, vocab_size]."""
        last = self.ops.gather(hidden, rows)
        normed = self.ops.rms_norm(last, self.weights.norm, self.config.rms_norm_eps)
        return self.ops.logits(normed, self.weights.lm_head)
