"""An engine to be measured: weights of a checkpoint or random ones, and a cache of a given size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import count
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.rope import default_max_model_len
from llama_cu.checkpoint.weights import (
    HEAD,
    LAYER_PARTS,
    PAIRED,
    LayerWeights,
    Weights,
    layer_matrices,
    layer_shapes,
    weight_bytes,
)
from llama_cu.engine import Engine
from llama_cu.errors import BackendUnavailable
from llama_cu.kv_cache import allocate_kv_cache
from llama_cu.model import Llama
from llama_cu.ops.base import Ops
from llama_cu.quantized import Scheme, can_quantize

Array = Any
Progress = Callable[[str, int, int], None]

BLOCK_SIZE = 16


def random_weights(
    ops: Ops,
    config: ModelConfig,
    *,
    seed: int = 0,
    scheme: Scheme | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Weights of a config's shapes, normal and divided by sqrt(in_size); norms are one.

    A scheme has its matrices quantized.

    Raises BackendUnavailable where they do not fit into the memory that is free.
    """
    needed, free = weight_bytes(config, ops.storage_dtype), ops.free_memory()
    if needed > free:
        raise BackendUnavailable(
            f"{ops.device_name} has {free} bytes free, the weights need {needed}"
        )
    seeds = count(seed << 32)
    try:
        table = (config.vocab_size, config.hidden_size)
        embed_tokens = _matrix(ops, table, seeds)
        layers = []
        for layer in range(config.num_hidden_layers):
            layers.append(_random_layer(ops, config, seeds, scheme))
            if progress is not None:
                progress("random weights", layer + 1, config.num_hidden_layers)
        norm = _ones(ops, config.hidden_size)
        lm_head = embed_tokens if config.tie_word_embeddings else _matrix(ops, table, seeds)
        if scheme is not None and can_quantize(table):
            lm_head = ops.quantize(lm_head, scheme.of(HEAD), paired=False)
    except MemoryError as error:
        raise BackendUnavailable(
            f"{ops.device_name} has no memory for weights of {needed} bytes"
        ) from error
    return Weights(embed_tokens, tuple(layers), norm, lm_head)


def _random_layer(
    ops: Ops, config: ModelConfig, seeds: Iterator[int], scheme: Scheme | None
) -> LayerWeights:
    present, matrices = layer_shapes(config), layer_matrices(config)

    def make(field: str) -> Array:
        if field in matrices:
            matrix = _matrix(ops, matrices[field], seeds)
            if scheme is None or not can_quantize(matrices[field]):
                return matrix
            return ops.quantize(matrix, scheme, paired=field == PAIRED)
        parts = LAYER_PARTS[field]
        if parts[0] not in present:
            return None
        rows = sum(present[part][0] for part in parts)
        if parts[0].endswith(".bias"):
            return ops.random_weight((rows,), seed=next(seeds), scale=config.hidden_size**-0.5)
        return _ones(ops, rows)

    return LayerWeights(**{field.name: make(field.name) for field in _LAYER_FIELDS})


_LAYER_FIELDS = fields(LayerWeights)


def _matrix(ops: Ops, shape: tuple[int, int], seeds: Iterator[int]) -> Array:
    return ops.random_weight(shape, seed=next(seeds), scale=shape[1] ** -0.5)


def _ones(ops: Ops, size: int) -> Array:
    return ops.place_weight(np.ones(size, ops.storage_dtype))


def make_engine(
    ops: Ops,
    config: ModelConfig,
    weights: Weights,
    *,
    num_blocks: int,
    max_num_seqs: int,
    kv_dtype: str = "auto",
) -> Engine:
    """The engine as `LLM` makes it, with a KV cache of so many blocks."""
    llama = Llama(config, weights, ops, max_model_len=default_max_model_len(config))
    blocks = {"num_blocks": num_blocks, "block_size": BLOCK_SIZE}
    cache = allocate_kv_cache(ops, config, **blocks, kv_dtype=kv_dtype)
    return Engine(llama, cache, max_num_seqs=max_num_seqs)
