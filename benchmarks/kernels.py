"""Times each op of a backend alone, in the shapes of a model: microseconds, GB/s, GFLOP/s.

    python -m benchmarks.kernels --model FOLDER --device cuda --dtype bfloat16 --json FILE

Weights and activations are random: only config.json is read. An op is queued many times and
waited for once, so launches overlap as they do in the engine; of weights there are enough copies
that none is read from a cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import describe_run, load_average, write_json
from llama_cu.batch import Batch, SamplingRows
from llama_cu.checkpoint.config import ModelConfig, load_config
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_ops import CudaOps

Array = Any

BLOCK_SIZE = 16
CALLS = 10
# More than the last-level cache of any CPU or GPU that this is likely to meet.
CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Case:
    """An op with its arguments, and what it has to read, write and compute at least."""

    name: str
    run: Callable[[], Array]
    num_bytes: int
    flops: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder with a config.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--context", type=int, default=512, help="tokens before the step ends")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cache-mb", type=int, default=CACHE_BYTES >> 20, help="to be outgrown")
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    config = load_config(arguments.model)
    try:
        ops, _ = get_ops(arguments.device, arguments.dtype, checkpoint_dtype=config.dtype)
    except BackendUnavailable as reason:
        print(f"could not run: {reason}", file=sys.stderr)
        return 1
    report = time_ops(
        ops,
        config,
        context=arguments.context,
        repeats=arguments.repeats,
        cache_bytes=arguments.cache_mb << 20,
    )
    report["model"] = arguments.model.resolve().name
    for step, found in report["steps"].items():
        print(f"{step} of {report['context']} on {report['device']}, {report['dtype']}")
        for name, row in found.items():
            print(f"  {name:<16}{json.dumps(row)}")
    write_json(arguments.json, report)
    return 0


def time_ops(
    ops: Ops, config: ModelConfig, *, context: int, repeats: int, cache_bytes: int = CACHE_BYTES
) -> dict[str, Any]:
    """Each op's median time, when the last token of a context is decoded, and in its prefill."""
    steps = {}
    for step, num_tokens in (("decode", 1), ("prefill", context)):
        problem = Problem(
            ops, config, num_tokens=num_tokens, context=context, cache_bytes=cache_bytes
        )
        rows = {
            case.name: case_row(case, median_s(ops, case.run, repeats)) for case in problem.cases()
        }
        steps[step] = rows
    return {
        **describe_run(),
        "device": ops.device_name,
        "dtype": ops.dtype.name,
        "context": context,
        "steps": steps,
        "load_average": load_average(),
    }


def median_s(ops: Ops, run: Callable[[], Array], repeats: int) -> float:
    """Seconds of one call, of many that are queued at once."""
    samples = []
    _wait(ops, run())  # compiles
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(CALLS):
            result = run()
        _wait(ops, result)
        samples.append((time.perf_counter() - started) / CALLS)
    return median(samples)


def _wait(ops: Ops, result: Array) -> None:
    ops.download(result.reshape(-1)[:1])


def case_row(case: Case, seconds: float) -> dict[str, float]:
    """What is reported of a case that took so long."""
    row = {"us": round(seconds * 1e6, 1), "GB/s": round(case.num_bytes / seconds / 1e9, 1)}
    return {**row, "GFLOP/s": round(case.flops / seconds / 1e9, 1)} if case.flops else row


class Problem:
    """One layer's arrays for one sequence, of which the step computes the last num_tokens."""

    def __init__(
        self, ops: Ops, config: ModelConfig, *, num_tokens: int, context: int, cache_bytes: int
    ) -> None:
        self.ops, self.config, self.cache_bytes = ops, config, cache_bytes
        self.num_tokens, self.context = num_tokens, context
        self._rng = np.random.default_rng(0)
        self.batch = self._batch()

    def _normal(self, *shape: int) -> Array:
        host = self._rng.standard_normal(shape, np.float32)
        return self.ops.upload(host.astype(self.ops.dtype).astype(self.ops.storage_dtype))

    def _weight(self, *shape: int) -> Array:
        host = self._rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        return self.ops.place_weight(host.astype(self.ops.dtype).astype(self.ops.storage_dtype))

    def _ints(self, *values: int) -> Array:
        return self.ops.upload(np.array(values, np.int32))

    def _batch(self) -> Batch:
        blocks = tuple(range(-(-self.context // BLOCK_SIZE)))
        positions = range(self.context - self.num_tokens, self.context)
        return Batch(
            token_ids=self._ints(*(p % self.config.vocab_size for p in positions)),
            positions=self._ints(*positions),
            rope_rows=self._ints(*(0 for _ in positions)),
            slot_mapping=self._ints(*positions),
            cu_seqlens_q=self._ints(0, self.num_tokens),
            context_lens=self._ints(self.context),
            block_tables=self._ints(*blocks).reshape(1, -1),
            logit_rows=self._ints(self.num_tokens - 1),
            query_lens=(self.num_tokens,),
            host_context_lens=(self.context,),
            host_block_tables=(blocks,),
        )

    def cases(self) -> Iterator[Case]:
        """The ops of a step, in the order of the model."""
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
        ops, rows, size = self.ops, self.num_tokens, self.ops.storage_dtype.itemsize
        table = self._weight(self.config.vocab_size, hidden)
        yield Case(
            "gather", lambda: ops.gather(table, self.batch.token_ids), 2 * rows * hidden * size
        )
        x, weight = self._normal(rows, hidden), self._weight(hidden)
        yield Case("rms_norm", lambda: ops.rms_norm(x, weight, 1e-5), 2 * rows * hidden * size)
        gate_up = self._normal(rows, 2 * inner)
        yield Case("swiglu", lambda: ops.swiglu(gate_up), 3 * rows * inner * size)

    def _attention_cases(self, q_size: int, kv_size: int) -> Iterator[Case]:
        ops, config, rows = self.ops, self.config, self.num_tokens
        num_heads, num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        heads = self._normal(rows, num_heads + 2 * num_kv_heads, config.head_dim)
        q, rotated = heads[:, :num_heads], heads[:, : num_heads + num_kv_heads]
        k, v = heads[:, num_heads : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
        blocks = len(self.batch.host_block_tables[0])
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
        pairs = rows * self.context - rows * (rows - 1) // 2  # query and key, causal
        yield Case("rope", rope, 2 * rows * (q_size + kv_size) * size)
        yield Case("store_kv", store, 4 * rows * kv_size * size)
        yield Case(
            "attention",
            lambda: ops.attention(q, k_cache, v_cache, self.batch, scale, None),
            2 * (rows * q_size + self.context * kv_size) * size,
            4 * pairs * q_size,
        )

    def _linear(self, name: str, out_size: int, in_size: int) -> Case:
        ops, rows, size = self.ops, self.num_tokens, self.ops.storage_dtype.itemsize
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


if __name__ == "__main__":
    sys.exit(main())
