"""Llama, written once against Ops. Reading order: forward, then _attention."""

from __future__ import annotations

from typing import Any

from llama_cu.batch import Batch
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.rope import attention_scaling, inv_freq_table
from llama_cu.checkpoint.weights import LayerWeights, Weights
from llama_cu.kv_cache import KVCache
from llama_cu.ops.base import HeadNorms, Ops

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
        self.max_model_len = max_model_len
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
            attended = self._attention(layer, hidden, cos_sin, kv, batch, window)
            hidden = ops.linear(attended, layer.o_proj, layer.o_bias, residual=hidden)
            activated = ops.norm_swiglu(
                hidden,
                layer.post_attention_layernorm,
                eps,
                layer.gate_up_proj,
                layer.gate_up_bias,
            )
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
        num_heads, eps = config.num_attention_heads, config.rms_norm_eps
        qkv = ops.norm_linear(x, layer.input_layernorm, eps, layer.qkv_proj, layer.qkv_bias)
        heads = qkv.reshape(x.shape[0], -1, config.head_dim)
        head_norms = None
        if layer.q_norm is not None:
            head_norms = HeadNorms(layer.q_norm, layer.k_norm, eps)
        ops.rotate_and_store(heads, cos_sin, *kv, batch.slot_mapping, head_norms)
        return ops.attention(heads[:, :num_heads], *kv, batch, self._scale, window)

    def logits(self, hidden: Array, rows: Array | None) -> Array:
        """float32 logits of the given rows of `forward`'s result: [num_rows, vocab_size].

        None means all rows.
        """
        last = hidden if rows is None else self.ops.gather(hidden, rows)
        eps = self.config.rms_norm_eps
        return self.ops.norm_logits(last, self.weights.norm, eps, self.weights.lm_head)
