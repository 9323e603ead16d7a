"""A Llama in plain torch, one sequence: SDPA over a static cache, each decode step a CUDA graph.

What a good torch programmer writes in an afternoon, as the peer that has no framework around it:
fused q/k/v and gate/up products, and nothing of the host between two tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from llama_cu.checkpoint.config import ModelConfig, load_config
from llama_cu.checkpoint.rope import attention_scaling, inv_freq_table
from llama_cu.checkpoint.tensor_set import has_tensors
from llama_cu.checkpoint.weight_reader import load_weights
from llama_cu.checkpoint.weights import LAYER_PARTS, LayerWeights, Weights, layer_shapes
from tests.checkpoints import FILE_DTYPES

Tensor = Any

_MASK_MULTIPLE = 64  # of cache rows, so that SDPA's kernels take the mask as it is


class TorchLlama:
    """Greedy tokens of one sequence at a time.

    Weights are those of the folder, or random ones where it has none; in the checkpoint's dtype on
    a GPU, float32 on the CPU, which has no graphs and serves to test the arithmetic.
    """

    def __init__(self, model: Path, *, max_len: int, device: str = "cuda") -> None:
        self.config = config = load_config(model)
        if config.rope.rope_type == "dynamic":
            raise ValueError("rope_type dynamic is not written here")
        self.device = torch.device(device)
        self.dtype_name = config.dtype if device == "cuda" else "float32"
        self.dtype = getattr(torch, self.dtype_name)
        max_len += -max_len % _MASK_MULTIPLE
        self.weights = self._weights(model)
        shape = (config.num_key_value_heads, max_len, config.head_dim)
        self.cache = [(self._zeros(*shape), self._zeros(*shape)) for _ in self.weights.layers]
        inv_freq = torch.from_numpy(inv_freq_table(config, max_len)[0]).to(self.device)
        self.slots = torch.arange(max_len, device=self.device)
        angles = torch.outer(self.slots.float(), inv_freq).repeat(1, 2)
        scale = attention_scaling(config)
        self.cos = (angles.cos() * scale).to(self.dtype)[:, None]
        self.sin = (angles.sin() * scale).to(self.dtype)[:, None]
        self.token = torch.zeros(1, dtype=torch.long, device=self.device)
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        self.answer = torch.zeros(max_len, dtype=torch.long, device=self.device)
        self.graph: Any = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def start(self, prompt: list[int]) -> int:
        """Prefill a prompt; its first token, once it is there."""
        tokens = torch.tensor(prompt, device=self.device)
        hidden = self._forward(tokens, self.slots[: len(prompt)])
        self.token.copy_(self._next_token(hidden[-1:]))
        self.position.fill_(len(prompt))
        return int(self.token)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def go_on(self, num_tokens: int) -> list[int]:
        """The tokens after those that there are."""
        first = int(self.position)
        for _ in range(num_tokens):
            if self.device.type == "cpu":
                self._step()
            else:
                self._replay(first)
        return [int(i) for i in self.answer[first : first + num_tokens].tolist()]

    def _replay(self, position: int) -> None:
        if self.graph is None:
            token = self.token.clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._step()  # what is chosen at a first call must not be captured
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
            self.token.copy_(token)
            self.position.fill_(position)
        self.graph.replay()

    def _step(self) -> None:
        hidden = self._forward(self.token, self.position)
        self.token.copy_(self._next_token(hidden))
        self.answer.index_copy_(0, self.position, self.token)
        self.position += 1

    def _next_token(self, hidden: Tensor) -> Tensor:
        normed = self._norm(hidden, self.weights.norm)
        return F.linear(normed, self.weights.lm_head).float().argmax(-1)

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = F.embedding(tokens, self.weights.embed_tokens)
        windows = self.config.sliding_windows
        for layer, kv, window in zip(self.weights.layers, self.cache, windows, strict=True):
            attended = self._attention(layer, x, positions, kv, window)
            x = x + F.linear(attended, layer.o_proj, layer.o_bias)
            normed = self._norm(x, layer.post_attention_layernorm)
            gate, up = F.linear(normed, layer.gate_up_proj, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down_proj, layer.down_bias)
        return x

    def _attention(
        self,
        layer: LayerWeights,
        x: Tensor,
        positions: Tensor,
        kv: tuple[Tensor, Tensor],
        window: int | None,
    ) -> Tensor:
        config, num_tokens = self.config, len(positions)
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        normed = self._norm(x, layer.input_layernorm)
        heads = F.linear(normed, layer.qkv_proj, layer.qkv_bias).view(
            num_tokens, -1, config.head_dim
        )
        q, k, v = heads.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
        if layer.q_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        cos, sin = self.cos[positions], self.sin[positions]
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        for cache, new in zip(kv, (k, v), strict=True):
            cache.index_copy_(1, positions, new.transpose(0, 1))
        if num_tokens == 1:
            seen = self.slots <= positions
            if window is not None:
                seen &= self.slots > positions - window
            # The query heads of a KV head are its rows: nothing is repeated.
            rows = q.view(1, num_kv_heads, num_heads // num_kv_heads, config.head_dim)
            mask = seen.expand(rows.shape[2], -1)
            found = F.scaled_dot_product_attention(rows, kv[0][None], kv[1][None], attn_mask=mask)
            return found.reshape(1, -1)
        repeat = num_heads // num_kv_heads
        k, v = (part.transpose(0, 1).repeat_interleave(repeat, 0)[None] for part in (k, v))
        mask = None
        if window is not None and window < num_tokens:
            mask = _band(num_tokens, window, self.device)
        found = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], k, v, attn_mask=mask, is_causal=mask is None
        )
        return found[0].transpose(0, 1).reshape(num_tokens, -1)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _weights(self, model: Path) -> Weights:
        if not has_tensors(model):
            return self._random_weights(self.config)
        dtype = FILE_DTYPES[self.dtype_name]
        return load_weights(model, self.config, dtype=dtype, storage_dtype=dtype, place=self._place)

    def _place(self, array: Any) -> Tensor:
        bits = torch.from_numpy(array.view(f"i{array.dtype.itemsize}"))
        return bits.view(self.dtype).to(self.device)

    def _random_weights(self, config: ModelConfig) -> Weights:
        shapes = layer_shapes(config)
        table = (config.vocab_size, config.hidden_size)
        embed_tokens = self._random(table)
        stacked = {
            name: (sum(shapes[part][0] for part in parts), *shapes[parts[0]][1:])
            for name, parts in LAYER_PARTS.items()
            if parts[0] in shapes
        }
        absent = dict.fromkeys(LAYER_PARTS.keys() - stacked.keys())
        layers = [
            LayerWeights(**{name: self._random(shape) for name, shape in stacked.items()}, **absent)
            for _ in range(config.num_hidden_layers)
        ]
        lm_head = embed_tokens if config.tie_word_embeddings else self._random(table)
        return Weights(embed_tokens, tuple(layers), self._random((config.hidden_size,)), lm_head)

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=self.dtype, device=self.device)
        return torch.randn(shape, dtype=self.dtype, device=self.device) * shape[1] ** -0.5


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def _band(num_tokens: int, window: int, device: Any) -> Tensor:
    """What of a prompt each of its tokens sees where only the last `window` are seen."""
    full = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device)
    return full.tril() & ~full.tril(-window)
