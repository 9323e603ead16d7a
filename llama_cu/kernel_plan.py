"""Which kernels a model will ask its device for: found by a dry run of the engine itself.

Nothing is computed and nothing allocated but addresses, so it takes milliseconds; and it asks for
what the real run will ask for, because it is the real run.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.weights import (
    HEAD,
    LAYER_PARTS,
    PAIRED,
    TABLE,
    BlockTypes,
    LayerWeights,
    Weights,
    keeps,
    layer_matrices,
    layer_shapes,
)
from llama_cu.engine import Engine
from llama_cu.gguf_quants import BlockType
from llama_cu.kv_cache import allocate_kv_cache
from llama_cu.model import Llama
from llama_cu.ops.cuda_ops import CudaOps
from llama_cu.ops.cuda_quantized import expand, repack, stacked
from llama_cu.ops.device import Device, Event, Graph, Kernel, KernelRequest
from llama_cu.quantized import Scheme, can_quantize
from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence as Request
from llama_cu.stopping import StopStrings

Array = Any

# Sequences decoded together: their products are different kernels.
_BATCHES = (1, 2, 8)
_QUANTIZED_BATCHES = (1, 2, 8, 16, 32)
_PROMPT_LEN = 24
_MAX_TOKENS = 4
_BLOCK_SIZE = 16


def plan_kernels(
    config: ModelConfig,
    dtype: np.dtype[Any],
    device: Device,
    scheme: Scheme | None = None,
    kinds: Sequence[BlockTypes] = (),
    *,
    kv_dtype: str = "auto",
) -> tuple[KernelRequest, ...]:
    """The kernels of prompts, of greedy and of drawn tokens; penalties and masks are left out.

    With a scheme also those that quantize the weights; with kinds of layers in blocks those that
    pack or expand them.
    """
    dry = _DryDevice(device)
    ops = CudaOps(dry, dtype)
    longest = min(config.max_position_embeddings, _PROMPT_LEN + _MAX_TOKENS)
    num_layers = max(1, len(kinds))
    windows = config.sliding_windows[:1] * num_layers
    config = replace(config, num_hidden_layers=num_layers, sliding_windows=windows)
    model = Llama(config, _weights(config, ops, scheme, kinds), ops, max_model_len=longest)
    batches = _QUANTIZED_BATCHES if scheme or kinds else _BATCHES
    batch = max(batches)
    num_blocks = batch * -(-longest // _BLOCK_SIZE)
    blocks: dict[str, Any] = {"num_blocks": num_blocks, "block_size": _BLOCK_SIZE}
    cache = allocate_kv_cache(ops, config, **blocks, kv_dtype=kv_dtype)
    engine = Engine(model, cache, max_batch_tokens=batch * longest, max_num_seqs=batch)
    for num_sequences in batches:
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature, top_p=0.9, max_tokens=_MAX_TOKENS)
            for _ in range(num_sequences):
                prompt = [0] * max(1, longest - _MAX_TOKENS)
                engine.submit(_request(prompt, params, longest))
            while engine.has_work:
                engine.step()
    return tuple(dry.requests)


def _weights(
    config: ModelConfig, ops: CudaOps, scheme: Scheme | None, kinds: Sequence[BlockTypes]
) -> Weights:
    shapes, matrices = layer_shapes(config), layer_matrices(config)
    flag = ops.device.empty((1,), np.dtype(np.int32))

    def made(field: str, rows: Sequence[int], in_size: int, types: Sequence[BlockType]) -> Array:
        """A matrix as it will be held, of tensors of so many rows each."""
        shape = (sum(rows), in_size)
        whole = types and all(in_size % own.block_size == 0 for own in types)
        raws = [
            (own, ops.device.empty((size, own.num_bytes((in_size,))), np.dtype(np.uint8)))
            for own, size in (_joined(types, rows) if whole else ())
        ]
        if raws and keeps(field, types):
            options: dict[str, Any] = {"in_size": in_size, "paired": field == PAIRED, "flag": flag}
            parts = [
                repack(ops.device, raw, block_type=own, dtype=ops.dtype, **options)
                for own, raw in raws
            ]
            return stacked(parts)
        weight = ops.empty(shape)
        for own, raw in raws:
            out = weight[: len(raw)]
            expand(ops.device, raw, block_type=own, in_size=in_size, out=out, flag=flag)
        if scheme is None or field == TABLE or not can_quantize(shape):
            return weight
        return ops.quantize(weight, scheme.of(field), paired=field == PAIRED)

    def layer(types: BlockTypes) -> LayerWeights:
        parts: dict[str, Array | None] = {}
        for field in (f.name for f in fields(LayerWeights)):
            names = LAYER_PARTS[field]
            if field in matrices:
                own_rows = [shapes[name][0] for name in names]
                parts[field] = made(field, own_rows, matrices[field][1], types.get(field, ()))
            elif names[0] in shapes:
                rows = sum(shapes[name][0] for name in names)
                parts[field] = ops.empty((rows, *shapes[names[0]][1:]))
            else:
                parts[field] = None
        return LayerWeights(**parts)

    rows, width = [config.vocab_size], config.hidden_size
    types = kinds[0] if kinds else {}
    table = made(TABLE, rows, width, types.get(TABLE, ()))
    head = table
    if scheme is not None or HEAD in types:
        head = made(HEAD, rows, width, types.get(HEAD, ()))
    return Weights(
        embed_tokens=table,
        layers=tuple(layer(kind) for kind in kinds or [{}]),
        norm=ops.empty((config.hidden_size,)),
        lm_head=head,
    )


def _joined(types: Sequence[BlockType], rows: Sequence[int]) -> Iterator[tuple[BlockType, int]]:
    """Types, and rows of neighbours of the same type together."""
    for own, group in groupby(zip(types, rows, strict=True), lambda pair: pair[0]):
        yield own, sum(size for _, size in group)


def _request(prompt: list[int], params: SamplingParams, longest: int) -> Request:
    return Request(
        token_ids=prompt,
        prompt_len=len(prompt),
        params=params,
        seed=0,
        eos_token_ids=frozenset(),
        max_len=longest,
        decoder=None,
        stops=StopStrings(()),
    )


class _DryDevice:
    """A device that only remembers which kernels it was asked for. Its arrays hold zeros."""

    def __init__(self, device: Device) -> None:
        self.requests: dict[KernelRequest, None] = {}  # in the order of their first use
        self.name = device.name
        self.num_multiprocessors = device.num_multiprocessors
        self.max_shared_bytes = device.max_shared_bytes
        self.arch = device.arch

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64))
        num_bytes = size * np.dtype(dtype).itemsize
        # Pages that nobody touches take no memory.
        return np.frombuffer(mmap.mmap(-1, max(num_bytes, 1)), dtype, size).reshape(shape)

    def upload(self, host: np.ndarray) -> np.ndarray:
        return host.copy()

    def download(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        return np.zeros(shape, dtype)

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        out[...] = host

    def copy_out(self, array: Array, host: np.ndarray) -> None:
        host[...] = 0

    def record(self) -> Event:
        return _Nothing()

    def synchronize(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Graph:
        work()
        return _Nothing()

    def free_memory(self) -> int:
        return 0

    def prepare(self, requests: Sequence[KernelRequest]) -> None:
        pass

    def kernel(self, file: str, name: str, *template_args: str | int) -> Kernel:
        self.requests.setdefault((file, name, template_args))
        return _launch_nothing

    def gemm(self, a: Array, b: Array, out: Array, **options: Any) -> None:
        pass


def _launch_nothing(*launch: Any, **options: Any) -> None:
    """Take a launch as `Kernel` does."""


class _Nothing:
    """An event that is always reached, a graph of nothing."""

    def wait(self) -> None:
        pass

    def done(self) -> bool:
        return True

    def launch(self) -> None:
        pass
