"""From a checkpoint and options to an engine: the device, the weights, the KV cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from llama_cu.arguments import check_integer, check_number
from llama_cu.checkpoint.checkpoint import Checkpoint
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.rope import default_max_model_len
from llama_cu.engine import Engine
from llama_cu.errors import BackendUnavailable
from llama_cu.kv_cache import KVCache, allocate_kv_cache, kv_bytes_per_token
from llama_cu.loading import load
from llama_cu.model import Llama
from llama_cu.ops.backend import get_ops
from llama_cu.ops.base import Ops
from llama_cu.ops.device import Device
from llama_cu.ops.int8_cache import check_kv_dtype
from llama_cu.ops.numpy_ops import NumpyOps
from llama_cu.quantized import EXPANDED, find_scheme
from llama_cu.speculation import KINDS

Progress = Callable[[str, int, int], None]
"""progress(what, done, total), called while weights load and kernels compile."""

# A CPU shares its memory with everything else: by default one context or this much, whichever
# is more, but never more contexts than this.
_CPU_CACHE_BYTES = 1 << 30
_CPU_CACHE_CONTEXTS = 16
# A device's is what it has left, but not the whole of an H200 for a model of a few megabytes, whose
# blocks alone would take seconds to list: as much as several of the largest batches can fill.
_DEVICE_CACHE_BATCHES = 4


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a model is placed and run; `LLM` says what each option means.

    Raises ValueError with name, rule and value.
    """

    device: str | Device = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    kv_dtype: str = "auto"
    low_memory: bool = False
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 64
    max_batch_tokens: int | None = None
    block_size: int = 16
    enforce_eager: bool = False
    speculate: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "block_size"):
            self._check_count(name)
        for name in ("max_model_len", "kv_cache_bytes", "max_batch_tokens"):
            if getattr(self, name) is not None:
                self._check_count(name)
        if self.speculate not in (None, *KINDS):
            known = " or ".join(map(repr, KINDS))
            raise ValueError(f"speculate must be {known} or None, got {self.speculate!r}")
        find_scheme(self.quantize)
        check_kv_dtype(self.kv_dtype)
        if self.low_memory and self.quantize == EXPANDED:
            raise ValueError("low_memory holds blocks as they are, quantize='none' expands them")
        share = self.gpu_memory_utilization
        check_number("gpu_memory_utilization", share, 0, 1, open_low=True)

    def _check_count(self, name: str) -> None:
        check_integer(name, getattr(self, name), 1)
        # A small integer of NumPy's would overflow where it is multiplied by.
        object.__setattr__(self, name, int(getattr(self, name)))

    def model_len(self, config: ModelConfig) -> int:
        """Tokens that prompt and answer may have together. ValueError beyond the model's own."""
        longest = default_max_model_len(config)
        if self.max_model_len is not None and self.max_model_len > longest:
            raise ValueError(
                f"max_model_len must be at most {longest}, which the model was made for, "
                f"got {self.max_model_len}"
            )
        return self.max_model_len or longest


def start_engine(
    checkpoint: Checkpoint, options: EngineOptions, progress: Progress | None
) -> tuple[Engine, str]:
    """The engine, and one line on which device was taken and why.

    Raises ModelError for weights that cannot be run, BackendUnavailable for a device that is not
    there or too small, ValueError for options that do not fit the model.
    """
    config = checkpoint.config
    max_model_len = options.model_len(config)
    report = progress or (lambda what, done, total: None)
    ops, note = get_ops(
        options.device,
        options.dtype,
        checkpoint_dtype=config.dtype,
        low_memory=options.low_memory,
        on_compile=lambda name: report(f"compiling {name}", 0, 0),
    )
    weights = load(
        checkpoint.path,
        config,
        ops,
        scheme=find_scheme(options.quantize),
        expand=options.quantize == EXPANDED,
        kv_dtype=options.kv_dtype,
        progress=partial(report, "weights"),
    )
    engine = Engine(
        Llama(config, weights, ops, max_model_len=max_model_len),
        _allocate_cache(config, options, ops),
        max_batch_tokens=options.max_batch_tokens,
        max_num_seqs=options.max_num_seqs,
        enforce_eager=options.enforce_eager,
    )
    return engine, note


def _allocate_cache(config: ModelConfig, options: EngineOptions, ops: Ops) -> KVCache:
    per_token = kv_bytes_per_token(config, ops.storage_dtype.itemsize, options.kv_dtype)
    num_bytes = options.kv_cache_bytes
    if num_bytes is None:
        num_bytes = _cache_bytes(config, options, ops, per_token=per_token)
    num_blocks = num_bytes // per_token // options.block_size
    if num_blocks == 0:
        raise ValueError(
            f"kv_cache_bytes must be at least {per_token * options.block_size} (one block), "
            f"got {num_bytes}"
        )
    blocks = {"num_blocks": num_blocks, "block_size": options.block_size}
    return allocate_kv_cache(ops, config, **blocks, kv_dtype=options.kv_dtype)


def _cache_bytes(config: ModelConfig, options: EngineOptions, ops: Ops, *, per_token: int) -> int:
    """The cache's share of the memory that is free."""
    free = ops.free_memory()
    usable = int(free * options.gpu_memory_utilization)
    if isinstance(ops, NumpyOps):
        context = options.model_len(config) * per_token
        usable = min(usable, max(_CPU_CACHE_BYTES, context), _CPU_CACHE_CONTEXTS * context)
    else:
        most = _DEVICE_CACHE_BATCHES * options.max_num_seqs * options.model_len(config) * per_token
        usable = min(usable, most)
    if usable < per_token:
        raise BackendUnavailable(
            f"{ops.device_name} has {free} bytes left for the KV cache; a token needs {per_token}"
        )
    return usable
