"""Which kernels a model will ask its device for: found by a dry run of the engine itself.

Nothing is computed and nothing allocated but addresses, so it takes milliseconds; and it asks for
what the real run will ask for, because it is the real run.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.weights import (
    HEAD,
    LAYER_PARTS,
    PAIRED,
    LayerWeights,
    Weights,
    layer_matrices,
    layer_shapes,
)
from llama_cu.engine import Engine
from llama_cu.kv_cache import allocate_kv_cache
from llama_cu.model import Llama
from llama_cu.ops.cuda_ops import CudaOps
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
    config: ModelConfig, dtype: np.dtype[Any], device: Device, scheme: Scheme | None = None
) -> tuple[KernelRequest, ...]:
    """The kernels of prompts, of greedy and of drawn tokens; penalties and masks are left out.

    With a scheme also those that quantize the weights.
    """
    dry = _DryDevice(device)
    ops = CudaOps(dry, dtype)
    longest = min(config.max_position_embeddings, _PROMPT_LEN + _MAX_TOKENS)
    config = replace(config, num_hidden_layers=1, sliding_windows=config.sliding_windows[:1])
    model = Llama(config, _weights(config, ops, scheme), ops, max_model_len=longest)
    batches = _BATCHES if scheme is None else _QUANTIZED_BATCHES
    batch = max(batches)
    num_blocks = batch * -(-longest // _BLOCK_SIZE)
    cache = allocate_kv_cache(ops, config, num_blocks=num_blocks, block_size=_BLOCK_SIZE)
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


def _weights(config: ModelConfig, ops: CudaOps, scheme: Scheme | None) -> Weights:
    shapes = layer_shapes(config)

    def stacked(names: Sequence[str]) -> Array | None:
        if names[0] not in shapes:
            return None
        rows = sum(shapes[name][0] for name in names)
        return ops.empty((rows, *shapes[names[0]][1:]))

    parts = {f.name: stacked(LAYER_PARTS[f.name]) for f in fields(LayerWeights)}
    for name, shape in layer_matrices(config).items():
        if scheme is not None and can_quantize(shape):
            parts[name] = ops.quantize(parts[name], scheme, paired=name == PAIRED)
    layer = LayerWeights(**parts)
    table = ops.empty((config.vocab_size, config.hidden_size))
    norm = ops.empty((config.hidden_size,))
    head = table
    if scheme is not None and can_quantize(table.shape):
        head = ops.quantize(table, scheme.of(HEAD), paired=False)
    return Weights(embed_tokens=table, layers=(layer,), norm=norm, lm_head=head)


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
        return lambda grid, block, args, shared_bytes: None

    def gemm(self, a: Array, b: Array, out: Array, **options: Any) -> None:
        pass


class _Nothing:
    """An event that is always reached, a graph of nothing."""

    def wait(self) -> None:
        pass

    def done(self) -> bool:
        return True

    def launch(self) -> None:
        pass
