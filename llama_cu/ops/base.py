"""What a backend must provide. A model is written in nothing else.

Arrays are opaque here: NumPy's on the CPU, CuPy's on a GPU. Between ops a model may only slice
the head axis, reshape, and read shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llama_cu.batch import Batch, DecodeRows, LogitEdits, LogitMasks, SamplingRows
from llama_cu.ops.device import Device
from llama_cu.ops.int8_cache import Int8Cache
from llama_cu.quantized import Scheme
from llama_cu.weight_loading import WeightLoader

Array = Any


@dataclass(frozen=True)
class HeadNorms:
    """The RMSNorms of q and k heads, in the models that have them."""

    q_weight: Array  # [head_dim]
    k_weight: Array  # [head_dim]
    eps: float


class Ops(Protocol):
    """The verbs of a Llama-family transformer.

    Every op computes in float32 and rounds its result to `dtype` once. `storage_dtype` is what
    the arrays hold: `dtype` itself on CUDA, float32 (with values rounded to `dtype`) on NumPy.
    Ops return new arrays, except where the docstring says "in place". The verbs at the end are
    made of the others: a backend that can fuse them overrides them, and rounds where they round.
    """

    device: Device | None  # None: work is done at once, and none can be captured
    device_name: str
    dtype: np.dtype[Any]
    storage_dtype: np.dtype[Any]

    def upload(self, host: Array) -> Array:
        """The NumPy array on the device, same shape and dtype."""

    def place_weight(self, host: Array) -> Array:
        """`upload` of a weight, in the memory layout that the products read fastest."""

    def quantize(self, weight: Array, scheme: Scheme, *, paired: bool) -> Array:
        """A weight in fewer bits, which the products take in its place.

        Of an array as a loader gives it, or of a host array where there is none. `paired` is for
        gate and up. It is worth `quantized.rounded` of it. ValueError for a weight that
        `quantized.quantize` refuses, or one of rows that are no whole groups.
        """

    @property
    def keeps_blocks(self) -> bool:
        """Whether matrices in blocks of a GGUF file are best held in as many bits.

        They are worth `BlockType.rounded` then, else what they stand for, rounded to `dtype`.
        """

    def weight_loader(self) -> WeightLoader | None:
        """A loader that reads files by itself; None where weights are made on the host."""

    def download(self, array: Array) -> Array:
        """The array as NumPy; waits for the device."""

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised array of `storage_dtype`."""

    def empty_cache(self, shape: tuple[int, int, int, int], kv_dtype: str) -> Array | Int8Cache:
        """K or V of a layer, uninitialised: [num_blocks, block_size, num_kv_heads, head_dim].

        `kv_dtype` is auto (`storage_dtype`) or int8. `store_kv`, `rotate_and_store` and
        `attention` take either; they read nothing of it that was not stored.
        """

    def random_weight(self, shape: tuple[int, ...], *, seed: int, scale: float) -> Array:
        """A placed weight of normal values times `scale`, made on the device, for measurements.

        The same seed gives the same values on one backend; the backends' values differ.
        """

    def free_memory(self) -> int:
        """Bytes the device could still allocate."""

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""

    def captures(self, head_dim: int) -> bool:
        """Whether `device.capture` can hold a decode step of a model with heads of this size."""

    def begin_decode(
        self, lengths: Array, block_tables: Array, block_size: int, rope_from: int | None
    ) -> DecodeRows:
        """The new token of each row with `lengths` [num_rows] tokens in the cache (int32).

        Lengths grow by one in place; a row whose length is negative is empty. block_tables is
        [num_rows, max_blocks]. A token at position p is rotated by row max(0, p + 1 - rope_from)
        of inv_freq, or by row 0.
        """

    def gather(self, table: Array, rows: Array) -> Array:
        """table[rows]: [num_rows, width] from [table_rows, width] and int32 rows (embedding)."""

    def linear(
        self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None
    ) -> Array:
        """x weightᵀ + bias: [num_tokens, out_size] from [num_tokens, in_size], [out_size, in_size].

        With `residual` [num_tokens, out_size] the product is added to it in place (beta = 1) and
        it is returned; a bias is added to the residual first.
        """

    def logits(self, x: Array, weight: Array) -> Array:
        """x weightᵀ in float32, not rounded: [num_rows, vocab_size]."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x²) + eps) * weight over the last axis; x [num_tokens, size]."""

    def head_norm(self, x: Array, weight: Array, eps: float) -> None:
        """RMSNorm of every head in place; x [num_tokens, num_heads, head_dim], a view of qkv."""

    def rope_angles(
        self, inv_freq: Array, rope_rows: Array, positions: Array, scaling: float
    ) -> Array:
        """cos and sin of the step's tokens: [num_tokens, head_dim] float32, cos in the first half.

        The angle of token t is positions[t] * inv_freq[rope_rows[t]] (inv_freq
        [num_rows, head_dim / 2] float32, product in float32); both are times `scaling`.
        """

    def rope(self, x: Array, cos_sin: Array) -> None:
        """Rotate (x[i], x[i + head_dim / 2]) of every head in place.

        x [num_tokens, num_heads, head_dim] is a view of qkv: heads contiguous, token stride free.
        """

    def store_kv(
        self, k: Array, v: Array, k_cache: Array, v_cache: Array, slot_mapping: Array
    ) -> None:
        """Write k and v [num_tokens, num_kv_heads, head_dim] to their cache slots, in place.

        Caches are [num_blocks, block_size, num_kv_heads, head_dim]; slot s is block
        s // block_size, offset s % block_size. A token with a negative slot is not stored.
        """

    def attention(
        self,
        q: Array,
        k_cache: Array,
        v_cache: Array,
        batch: Batch,
        scale: float,
        window: int | None,
    ) -> Array:
        """Causal attention over the paged cache: [num_tokens, num_heads * head_dim].

        q [num_tokens, num_heads, head_dim] is a view of qkv. Query i of n in a sequence with
        context c stands at position c - n + i and sees keys at positions (p - window, p].
        Query head h reads KV head h // (num_heads / num_kv_heads).
        """

    def softmax(self, scores: Array, position: int, window: int | None) -> Array:
        """Causal softmax of scores [num_heads, num_queries, row_size] float32, of the same shape.

        Query i stands at position + i and sees keys (position + i - window, position + i]; others
        weigh 0. row_size is a multiple of 4 and above each position.
        """

    def swiglu(self, gate_up: Array) -> Array:
        """silu(gate) * up: [num_tokens, size] from [num_tokens, 2 * size], gate first."""

    def edit_logits(self, logits: Array, edits: LogitEdits) -> Array:
        """A copy of logits [num_rows, vocab_size] with penalties and biases applied."""

    def mask_logits(self, logits: Array, masks: LogitMasks) -> Array:
        """A copy of logits [num_rows, vocab_size] that is -inf where a row's mask has no bit.

        Where it has one, the logit is held within [-1e30, 1e30] (NaN becomes -1e30): an allowed
        token is drawn whatever banned it before. Rows without a mask stay as they are.
        """

    def sample(self, logits: Array, rows: SamplingRows, out: Array | None = None) -> Array:
        """One token id per row: [num_rows] int32, in `out` if it is given.

        The rule is in `numpy_sampling.py`.
        """

    def logprobs(self, logits: Array, token_ids: Array, num_top: int) -> tuple[Array, Array, Array]:
        """Log softmax of each row at its token, and at its most likely tokens.

        Returns float32 [num_rows], int32 [num_rows, num_top], float32 [num_rows, num_top];
        the top is ordered by falling logit, then by rising id.
        """

    def norm_linear(
        self, x: Array, norm_weight: Array, eps: float, weight: Array, bias: Array | None = None
    ) -> Array:
        """`linear` of `rms_norm`: [num_tokens, out_size] from x [num_tokens, in_size]."""
        return self.linear(self.rms_norm(x, norm_weight, eps), weight, bias)

    def norm_swiglu(
        self, x: Array, norm_weight: Array, eps: float, weight: Array, bias: Array | None = None
    ) -> Array:
        """`swiglu` of `norm_linear`: [num_tokens, size], weight [2 * size, in_size], gate first."""
        return self.swiglu(self.norm_linear(x, norm_weight, eps, weight, bias))

    def norm_logits(self, x: Array, norm_weight: Array, eps: float, weight: Array) -> Array:
        """`logits` of `rms_norm`: float32 [num_rows, vocab_size]."""
        return self.logits(self.rms_norm(x, norm_weight, eps), weight)

    def rotate_and_store(
        self,
        qkv: Array,
        cos_sin: Array,
        k_cache: Array,
        v_cache: Array,
        slot_mapping: Array,
        head_norms: HeadNorms | None,
    ) -> None:
        """Norm (where the model has any) and rotate q and k in place, and store k and v.

        qkv [num_tokens, num_heads + 2 num_kv_heads, head_dim]: q, then k, then v. The caches and
        slot_mapping are those of `store_kv`: tokens whose slot is negative are not stored.
        """
        num_kv_heads = k_cache.shape[2]
        num_heads = qkv.shape[1] - 2 * num_kv_heads
        k = qkv[:, num_heads : num_heads + num_kv_heads]
        if head_norms is not None:
            self.head_norm(qkv[:, :num_heads], head_norms.q_weight, head_norms.eps)
            self.head_norm(k, head_norms.k_weight, head_norms.eps)
        self.rope(qkv[:, : num_heads + num_kv_heads], cos_sin)
        v = qkv[:, num_heads + num_kv_heads :]
        self.store_kv(k, v, k_cache, v_cache, slot_mapping)
