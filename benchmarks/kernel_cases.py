"""The ops of a step with their arguments, in the shapes of a model, for `kernels.py` to time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from typing import Any

import numpy as np

from llama_cu.batch import Batch, SamplingRows
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_ops import CudaOps

Array = Any

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Case:
    """An op with its arguments, and what it has to read, write and compute at least."""

    name: str
    run: Callable[[], Array]
    num_bytes: int
    flops: int = 0


class Problem:
    """One layer's arrays for equal sequences, of which the step computes the last num_tokens."""

    def __init__(
        self,
        ops: Ops,
        config: ModelConfig,
        *,
        num_seqs: int = 1,
        num_tokens: int,
        context: int,
        cache_bytes: int,
    ) -> None:
        self.ops, self.config, self.cache_bytes = ops, config, cache_bytes
        self.num_seqs, self.num_tokens, self.context = num_seqs, num_tokens, context
        self.num_rows = num_seqs * num_tokens
        self._rng, self._seeds = np.random.default_rng(0), count()
        self.batch = self._batch()

    def _normal(self, *shape: int) -> Array:
        return self.ops.random_weight(shape, seed=next(self._seeds), scale=1.0)

    def _weight(self, *shape: int) -> Array:
        return self.ops.random_weight(shape, seed=next(self._seeds), scale=shape[-1] ** -0.5)

    def _ints(self, *values: int) -> Array:
        return self.ops.upload(np.array(values, np.int32))

    def _batch(self) -> Batch:
        seqs, num_blocks = range(self.num_seqs), -(-self.context // BLOCK_SIZE)
        positions = [*range(self.context - self.num_tokens, self.context)] * self.num_seqs
        first_slots = np.arange(self.num_seqs) * num_blocks * BLOCK_SIZE
        slots = np.repeat(first_slots, self.num_tokens) + positions
        tables = np.arange(self.num_seqs * num_blocks).reshape(self.num_seqs, -1)
        ends = [self.num_tokens * (seq + 1) for seq in seqs]
        return Batch(
            token_ids=self._ints(*(p % self.config.vocab_size for p in positions)),
            positions=self._ints(*positions),
            rope_rows=self._ints(*(0 for _ in positions)),
            slot_mapping=self._ints(*slots),
            cu_seqlens_q=self._ints(0, *ends),
            context_lens=self._ints(*(self.context for _ in seqs)),
            block_tables=self.ops.upload(tables.astype(np.int32)),
            logit_rows=self._ints(*(end - 1 for end in ends)),
            query_lens=(self.num_tokens,) * self.num_seqs,
            host_context_lens=(self.context,) * self.num_seqs,
            host_block_tables=tuple(map(tuple, tables.tolist())),
        )

    def cases(self, only: str = "") -> Iterator[Case]:
        """The ops of a step, in the order of the model, whose names begin so."""
        return (case for case in self._cases() if case.name.startswith(only))

    def _cases(self) -> Iterator[Case]:
        config = self.config
        hidden, inner = config.hidden_size, config.intermediate_size
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        yield from self._small_cases(hidden, inner)
        yield from self._attention_cases(q_size, kv_size)
        yield self._linear("qkv_proj", q_size + 2 * kv_size, hidden)
        yield self._linear("o_proj", hidden, q_size)
        yield self._linear("gate_up_proj", 2 * inner, hidden)
        yield self._linear("down_proj", hidden, inner)
        yield from self._last_cases(hidden)

    def _small_cases(self, hidden: int, inner: int) -> Iterator[Case]:
        ops, rows, size = self.ops, self.num_rows, self.ops.storage_dtype.itemsize
        table = self._weight(self.config.vocab_size, hidden)
        yield Case(
            "gather", lambda: ops.gather(table, self.batch.token_ids), 2 * rows * hidden * size
        )
        x, weight = self._normal(rows, hidden), self._weight(hidden)
        yield Case("rms_norm", lambda: ops.rms_norm(x, weight, 1e-5), 2 * rows * hidden * size)
        gate_up = self._normal(rows, 2 * inner)
        yield Case("swiglu", lambda: ops.swiglu(gate_up), 3 * rows * inner * size)

    def _attention_cases(self, q_size: int, kv_size: int) -> Iterator[Case]:
        ops, config, rows = self.ops, self.config, self.num_rows
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        heads = self._normal(rows, num_heads + 2 * num_kv_heads, config.head_dim)
        q, rotated = heads[:, :num_heads], heads[:, : num_heads + num_kv_heads]
        k, v = heads[:, num_heads : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
        blocks = sum(map(len, self.batch.host_block_tables))
        k_cache = self._normal(blocks, BLOCK_SIZE, num_kv_heads, config.head_dim)
        v_cache = self._normal(blocks, BLOCK_SIZE, num_kv_heads, config.head_dim)
        cos_sin = self.ops.upload(
            self._rng.uniform(-0.7, 0.7, (rows, config.head_dim)).astype(np.float32)
        )

        def rope() -> Array:
            ops.rope(rotated, cos_sin)
            return heads

        def store() -> Array:
            ops.store_kv(k, v, k_cache, v_cache, self.batch.slot_mapping)
            return k_cache

        scale = config.head_dim**-0.5
        size = ops.storage_dtype.itemsize
        unseen = self.num_tokens * (self.num_tokens - 1) // 2  # causal
        pairs = rows * self.context - self.num_seqs * unseen
        yield Case("rope", rope, 2 * rows * (q_size + kv_size) * size)
        yield Case("store_kv", store, 4 * rows * kv_size * size)
        yield Case(
            "attention",
            lambda: ops.attention(q, k_cache, v_cache, self.batch, scale, None),
            2 * (rows * q_size + self.num_seqs * self.context * kv_size) * size,
            4 * pairs * q_size,
        )

    def _linear(self, name: str, out_size: int, in_size: int) -> Case:
        ops, rows, size = self.ops, self.num_rows, self.ops.storage_dtype.itemsize
        x, weights = self._normal(rows, in_size), self._cold_weights(out_size, in_size)
        num_bytes = (out_size * in_size + rows * (in_size + out_size)) * size
        flops = 2 * rows * out_size * in_size
        return Case(name, lambda: ops.linear(x, next(weights)), num_bytes, flops)

    def _cold_weights(self, out_size: int, in_size: int) -> Iterator[Array]:
        """Equal weights in turn, so many that each has left the cache when its turn comes."""
        num_bytes = out_size * in_size * self.ops.storage_dtype.itemsize
        copies = 1 + self.cache_bytes // num_bytes
        return cycle([self._weight(out_size, in_size) for _ in range(copies)])

    def _last_cases(self, hidden: int) -> Iterator[Case]:
        ops, vocab = self.ops, self.config.vocab_size
        x, weights = self._normal(1, hidden), self._cold_weights(vocab, hidden)
        num_bytes = vocab * hidden * ops.storage_dtype.itemsize
        yield Case("logits", lambda: ops.logits(x, next(weights)), num_bytes, 2 * vocab * hidden)
        for num_rows in (1, 64) if isinstance(ops, CudaOps) else (1,):
            yield from self._sample_cases(num_rows)

    def _sample_cases(self, num_rows: int) -> Iterator[Case]:
        """Draws from logits that are spread as a trained model's, and from flat ones."""
        shape = num_rows, self.config.vocab_size
        spread = self.ops.upload(self._rng.normal(0, 3, shape).astype(np.float32))
        flat = self.ops.upload(self._rng.normal(0, 0.5, shape).astype(np.float32))
        for name, logits, temperature, top_k, top_p in (
            ("greedy", spread, 0.0, 0, 1.0),
            ("unfiltered", spread, 0.8, 0, 1.0),
            ("top-k top-p", spread, 0.8, 50, 0.95),
            ("top-p", spread, 0.8, 0, 0.95),
            ("top-p flat", flat, 0.8, 0, 0.95),
        ):
            rows = self._sampling_rows(num_rows, temperature, top_k, top_p)
            run = self._without_host(logits, rows)
            label = f"sample {name}" if num_rows == 1 else f"sample {name} x{num_rows}"
            yield Case(label, run, 4 * num_rows * self.config.vocab_size)

    def _without_host(self, logits: Array, rows: SamplingRows) -> Callable[[], Array]:
        """A draw; on a device captured, as in the engine: its launches do not wait for the host."""
        out = self._ints(*[0] * logits.shape[0])
        draw = partial(self.ops.sample, logits, rows, out)
        if not isinstance(self.ops, CudaOps):
            return draw
        draw()  # compiles
        graph = self.ops.device.capture(draw)

        def launch() -> Array:
            graph.launch()
            return out

        return launch

    def _sampling_rows(
        self, num_rows: int, temperature: float, top_k: int, top_p: float
    ) -> SamplingRows:
        def floats(value: float) -> Array:
            return self.ops.upload(np.full(num_rows, value, np.float32))

        return SamplingRows(
            temperature=floats(temperature),
            top_k=self._ints(*[top_k] * num_rows),
            top_p=floats(top_p),
            min_p=floats(0.0),
            seeds=self._ints(*range(2 * num_rows)).reshape(num_rows, 2),
            positions=self._ints(*[self.context] * num_rows),
            all_greedy=temperature == 0,
        )
