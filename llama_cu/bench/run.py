"""The whole measurement: what is asked for, what fits, and the report that comes out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from llama_cu import __version__
from llama_cu.arguments import check_integer
from llama_cu.bench.engines import (
    BLOCK_SIZE,
    Progress,
    make_engine,
    random_weights,
)
from llama_cu.bench.roofs import Roofs, measure_roofs
from llama_cu.bench.speed import Decoded, Stopwatch, tokens_beside_context
from llama_cu.bench.traffic import held_weight_bytes, prefill_flops, read_kv_bytes
from llama_cu.checkpoint.config import ModelConfig
from llama_cu.checkpoint.rope import default_max_model_len
from llama_cu.checkpoint.weights import Weights
from llama_cu.kv_cache import kv_bytes_per_token
from llama_cu.loading import load, prepare_kernels
from llama_cu.ops.base import Ops
from llama_cu.ops.int8_cache import check_kv_dtype
from llama_cu.quantized import Scheme

_CONTEXTS = (512, 4096)
_PROMPT_LEN = 2048
# The rest is for what a step computes.
_CACHE_SHARE = 0.9
_PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True)
class Plan:
    """What to measure. None: what is usual, as far as the model's context reaches."""

    batch_sizes: tuple[int, ...] = (1, 8, 64)
    contexts: tuple[int, ...] | None = None
    prompt_len: int | None = None
    repeats: int = 5
    steps: int = 32
    kv_dtype: str = "auto"

    def __post_init__(self) -> None:
        check_kv_dtype(self.kv_dtype)
        for name, values in (("batch_sizes", self.batch_sizes), ("contexts", self.contexts)):
            if values is not None and not values:
                raise ValueError(f"{name} must name at least one number")
            for value in values or ():
                check_integer(name, value, 1)
        if self.prompt_len is not None:
            check_integer("prompt_len", self.prompt_len, 1)
        check_integer("repeats", self.repeats, 1)
        check_integer("steps", self.steps, 1)


@dataclass(frozen=True)
class Source:
    """Where the model comes from: a checkpoint folder, or None and random weights.

    With a scheme its matrices are quantized; `expand` those that a GGUF file has in blocks.
    """

    name: str
    config: ModelConfig
    folder: Path | None
    scheme: Scheme | None = None
    expand: bool = False


def run_bench(
    ops: Ops,
    source: Source,
    plan: Plan,
    *,
    roofs: Roofs | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure, and return the report: roofs, prefill, decode, and what was skipped and why.

    `tell` gets a line for each thing that is measured, before it is. Raises BackendUnavailable
    where the weights have no room, ValueError where nothing of the plan fits.
    """
    tell = tell or (lambda line: None)
    if roofs is None:
        tell("measuring read bandwidth and GEMM rate")
        roofs = measure_roofs(ops)
    config = source.config
    progress = progress or (lambda what, done, total: None)
    if source.folder is None:
        prepare_kernels(config, ops, source.scheme, kv_dtype=plan.kv_dtype)
        weights = random_weights(ops, config, scheme=source.scheme, progress=progress)
    else:
        weights = load(
            source.folder,
            config,
            ops,
            scheme=source.scheme,
            expand=source.expand,
            kv_dtype=plan.kv_dtype,
            progress=partial(progress, "weights"),
        )
    sizes = _Sizes(config, ops.storage_dtype.itemsize, weights, plan.kv_dtype)
    wanted = _Wanted(config, plan, ops)
    stopwatch = Stopwatch(
        make_engine(
            ops,
            config,
            weights,
            num_blocks=wanted.num_blocks,
            max_num_seqs=max([1, *(batch_size for batch_size, _ in wanted.decode)]),
            kv_dtype=plan.kv_dtype,
        )
    )
    prefill = []
    if wanted.prompt_len is not None:
        tell(f"prefill of {wanted.prompt_len} tokens")
        prefill = [_prefill(stopwatch, config, wanted.prompt_len, plan, roofs)]
    decode = []
    for batch_size, context in wanted.decode:
        tell(f"decode, {_count(batch_size, 'sequence')} with a context of {context}")
        samples = [
            stopwatch.decode(batch_size, context, num_steps=plan.steps) for _ in range(plan.repeats)
        ]
        decode.append(_decode_row(sizes, samples, context=context, roofs=roofs))
    ops.synchronize()
    return {
        "llama_cu": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **dict(_installed())},
        "device": ops.device_name,
        "dtype": ops.dtype.name,
        "model": source.name,
        "weights": "random" if source.folder is None else "checkpoint",
        "quantize": None if source.scheme is None else source.scheme.name,
        "weight_bytes_per_step": held_weight_bytes(weights, num_rows=1),
        "plan": asdict(plan),
        "roofs": asdict(roofs),
        "prefill": prefill,
        "decode": decode,
        "skipped": wanted.skipped,
    }


@dataclass(frozen=True)
class _Sizes:
    """What the bytes of a step are counted by."""

    config: ModelConfig
    itemsize: int
    weights: Weights
    kv_dtype: str

    def of_step(self, context_lens: Sequence[int]) -> int:
        kv_bytes = read_kv_bytes(
            self.config, self.itemsize, context_lens=context_lens, kv_dtype=self.kv_dtype
        )
        return held_weight_bytes(self.weights, num_rows=len(context_lens)) + kv_bytes


class _Wanted:
    """What of a plan fits the model's context and the memory that is free."""

    def __init__(self, config: ModelConfig, plan: Plan, ops: Ops) -> None:
        self._longest = default_max_model_len(config)
        self._beside = tokens_beside_context(plan.steps)
        token_bytes = kv_bytes_per_token(config, ops.storage_dtype.itemsize, plan.kv_dtype)
        self._block_bytes = BLOCK_SIZE * token_bytes
        self._free_bytes = int(_CACHE_SHARE * ops.free_memory())
        self.skipped: list[dict[str, str]] = []
        contexts, prompt_len = plan.contexts, plan.prompt_len
        if contexts is None:
            room = self._longest - self._beside
            contexts = tuple(c for c in _CONTEXTS if c <= room) or (_power_of_two(room),)
        if prompt_len is None:
            prompt_len = min(_PROMPT_LEN, self._longest - 1)
        fits = self._fits(f"prefill of {prompt_len}", 1, prompt_len, 1)
        self.prompt_len = prompt_len if fits else None
        self.decode = [
            (batch_size, context)
            for context in contexts
            for batch_size in plan.batch_sizes
            if self._fits(
                f"decode, batch {batch_size}, context {context}", batch_size, context, self._beside
            )
        ]
        if self.prompt_len is None and not self.decode:
            reasons = "; ".join(f"{entry['what']}: {entry['reason']}" for entry in self.skipped)
            raise ValueError(f"nothing can be measured: {reasons}")
        prompt_blocks = 0 if self.prompt_len is None else self._blocks(self.prompt_len + 1)
        self.num_blocks = max(
            [prompt_blocks, *(b * self._blocks(c + self._beside) for b, c in self.decode)]
        )

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // BLOCK_SIZE)

    def _fits(self, what: str, batch_size: int, context: int, beside: int) -> bool:
        reason = None
        if context + beside > self._longest:
            reason = f"needs {context + beside} tokens, the model takes at most {self._longest}"
        else:
            needed = batch_size * self._blocks(context + beside) * self._block_bytes
            if needed > self._free_bytes:
                reason = f"needs {needed} bytes of KV cache, {self._free_bytes} are free"
        if reason is not None:
            self.skipped.append({"what": what, "reason": reason})
        return reason is None


def _prefill(
    stopwatch: Stopwatch, config: ModelConfig, prompt_len: int, plan: Plan, roofs: Roofs
) -> dict[str, Any]:
    stopwatch.prefill_s(prompt_len)  # compiles
    samples = [stopwatch.prefill_s(prompt_len) for _ in range(plan.repeats)]
    seconds = median(samples)
    flops = prefill_flops(config, prompt_len=prompt_len)
    return {
        "prompt_len": prompt_len,
        "tok_s": _digits(prompt_len / seconds),
        "ms": _digits(seconds * 1e3),
        "tflop_s": _digits(flops / seconds / 1e12),
        "percent_of_gemm": _digits(100 * flops / seconds / roofs.gemm_flops_per_s),
        "flops": flops,
        "samples_ms": [_digits(sample * 1e3) for sample in samples],
    }


def _decode_row(
    sizes: _Sizes, samples: Sequence[Decoded], *, context: int, roofs: Roofs
) -> dict[str, Any]:
    batch_size = len(samples[0].context_lens)
    step_s = median(sample.seconds / sample.num_steps for sample in samples)
    middle = samples[0].num_steps / 2
    num_bytes = round(
        median(
            sum(sizes.of_step(sample.context_lens_of(step)) for step in range(sample.num_steps))
            / sample.num_steps
            for sample in samples
        )
    )
    return {
        "batch_size": batch_size,
        "context": context,
        "mean_context": sum(samples[0].context_lens) / batch_size + middle - 0.5,
        "tok_s": _digits(batch_size / step_s),
        "ms": _digits(step_s * 1e3),
        "gb_s": _digits(num_bytes / step_s / 1e9),
        "percent_of_read": _digits(100 * num_bytes / step_s / roofs.read_bytes_per_s),
        "bytes_per_step": num_bytes,
        "roof_tok_s": _digits(batch_size * roofs.read_bytes_per_s / num_bytes),
        "samples_ms": [_digits(s.seconds / s.num_steps * 1e3) for s in samples],
    }


def _power_of_two(limit: int) -> int:
    """The largest up to a limit; 1 where the limit is less."""
    return 1 << max(0, limit.bit_length() - 1) if limit > 0 else 1


def _installed() -> Iterable[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
