"""A ragged batch for attention: queries, a paged cache, and what must come out."""

from __future__ import annotations

from typing import Any

import numpy as np

from llama_cu.batch import Batch
from llama_cu.ops.cuda_unfused import unfused_attention
from llama_cu.ops.int8_cache import Int8Cache
from tests import reference
from tests.backends import normal, put, put_as

Array = Any


class Problem:
    """A ragged batch of (query length, context length), its cache scattered over the blocks.

    k_cache and v_cache are what the cache is worth; with `in_8_bits`, what its numbers are worth.
    """

    def __init__(self, ops, lens, heads, *, block_size=16, seed=3, in_8_bits=False):
        rng = np.random.default_rng(seed)
        self.ops = ops
        self.head_dim, self.num_heads, num_kv_heads = heads
        self.query_lens = tuple(query_len for query_len, _ in lens)
        self.context_lens = tuple(context_len for _, context_len in lens)
        counts = [-(-context_len // block_size) for context_len in self.context_lens]
        order = rng.permutation(sum(counts) + 3).tolist()
        self.tables = tuple(tuple(order.pop() for _ in range(count)) for count in counts)
        shape = (sum(counts) + 3, block_size, num_kv_heads, self.head_dim)
        self.k_cache, self.v_cache = normal(ops, rng, *shape), normal(ops, rng, *shape)
        self.in_8_bits = None
        if in_8_bits:
            # Rows of other magnitudes each: a wrong scale is a wrong result.
            magnitudes = rng.uniform(0.5, 2, (2, *shape[:3]))
            caches = zip((self.k_cache, self.v_cache), magnitudes, strict=True)
            self.in_8_bits = [reference.in_8_bits(x * own[..., None]) for x, own in caches]
            self.k_cache, self.v_cache = (
                numbers * scales.astype(np.float64)[..., None] for numbers, scales in self.in_8_bits
            )
        num_tokens = sum(self.query_lens)
        self.qkv = normal(ops, rng, num_tokens, self.num_heads + 2 * num_kv_heads, self.head_dim)
        self.scale = self.head_dim**-0.5

    def only(self, seq: int, first: int = 0, end: int | None = None) -> Problem:
        """The same, with queries first to end - 1 of one sequence alone."""
        part = object.__new__(Problem)
        part.__dict__.update(self.__dict__)
        start = sum(self.query_lens[:seq])
        end = self.query_lens[seq] if end is None else end
        part.qkv = self.qkv[start + first : start + end]
        part.query_lens = (end - first,)
        part.context_lens = (self.context_lens[seq] - self.query_lens[seq] + end,)
        part.tables = (self.tables[seq],)
        return part

    def batch(self) -> Batch:
        tables = np.zeros((len(self.tables), max(map(len, self.tables))), np.int32)
        for row, table in zip(tables, self.tables, strict=True):
            row[: len(table)] = table
        unused = put_as(self.ops, np.zeros(sum(self.query_lens)))
        return Batch(
            token_ids=unused,
            positions=unused,
            rope_rows=unused,
            slot_mapping=unused,
            cu_seqlens_q=put_as(self.ops, np.cumsum((0, *self.query_lens))),
            context_lens=put_as(self.ops, self.context_lens),
            block_tables=put_as(self.ops, tables),
            logit_rows=unused,
            query_lens=self.query_lens,
            host_context_lens=self.context_lens,
            host_block_tables=self.tables,
        )

    def arrays(self) -> tuple:
        q = put(self.ops, self.qkv)[:, : self.num_heads]
        if self.in_8_bits is None:
            return q, put(self.ops, self.k_cache), put(self.ops, self.v_cache)
        upload = self.ops.upload
        return q, *(
            Int8Cache(upload(numbers.astype(np.int8)), upload(scales.swapaxes(1, 2)))
            for numbers, scales in self.in_8_bits
        )

    def result(self, window=None):
        return self.ops.attention(*self.arrays(), self.batch(), self.scale, window)

    def unfused_result(self, window=None):
        q, k_cache, v_cache = self.arrays()
        rest = {"batch": self.batch(), "scale": self.scale, "window": window}
        return unfused_attention(self.ops, q, k_cache=k_cache, v_cache=v_cache, **rest)

    def want(self, window=None):
        return reference.attention(
            self.qkv[:, : self.num_heads],
            self.k_cache,
            self.v_cache,
            self.query_lens,
            self.context_lens,
            self.tables,
            scale=self.scale,
            window=window,
        )
