"""Times the products of a decode step alone, in the shapes of real models: microseconds and GB/s.

    python -m benchmarks.matvec --device cuda --dtype bfloat16 --json FILE

Weights are random, and so many that none is read from a cache. A product is queued many times and
waited for once. "gemm us" is the library's product of the same operands, without norm, SwiGLU and
residual. Products of a few megabytes take less time than their launch from Python does: what they
cost in a step is seen in a captured one alone. The roofs are measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_cases import Case
from benchmarks.kernels import CACHE_BYTES, case_row, median_s
from benchmarks.report import describe_run, load_average, write_json
from llama_cu.bench.roofs import Roofs, measure_roofs
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.base import Ops
from llama_cu.ops.cuda_ops import CudaOps

Array = Any
Shapes = Mapping[str, tuple[int, int]]

ROWS = (1, 8)
EPS = 1e-5

# out_size, in_size of the weights, as they lie in memory: q/k/v and gate/up are one each.
SHAPES: dict[str, Shapes] = {
    "llama-3.1-8b": {
        "qkv_proj": (6144, 4096),
        "o_proj": (4096, 4096),
        "gate_up_proj": (28672, 4096),
        "down_proj": (4096, 14336),
        "lm_head": (128256, 4096),
    },
    "llama-3.2-1b": {
        "qkv_proj": (3072, 2048),
        "o_proj": (2048, 2048),
        "gate_up_proj": (16384, 2048),
        "down_proj": (2048, 8192),
        "lm_head": (128256, 2048),
    },
    "smollm2-135m": {
        "qkv_proj": (960, 576),
        "o_proj": (576, 576),
        "gate_up_proj": (3072, 576),
        "down_proj": (576, 1536),
        "lm_head": (49152, 576),
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cache-mb", type=int, default=CACHE_BYTES >> 20, help="to be outgrown")
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    try:
        ops, _ = get_ops(arguments.device, arguments.dtype)
    except BackendUnavailable as reason:
        print(f"could not run: {reason}", file=sys.stderr)
        return 1
    roofs = measure_roofs(ops)
    report = {
        **describe_run(),
        "device": ops.device_name,
        "dtype": ops.dtype.name,
        "roofs": asdict(roofs),
        "models": {},
    }
    for model in arguments.shapes:
        found = time_products(
            ops,
            SHAPES[model],
            roofs,
            repeats=arguments.repeats,
            cache_bytes=arguments.cache_mb << 20,
        )
        report["models"][model] = found
        print(f"{model} on {ops.device_name}, {ops.dtype.name}")
        for name, row in found.items():
            print(f"  {name:<20}{json.dumps(row)}")
    write_json(arguments.json, {**report, "load_average": load_average()})
    return 0


def time_products(
    ops: Ops, shapes: Shapes, roofs: Roofs, *, repeats: int, cache_bytes: int
) -> dict[str, dict[str, float]]:
    """What `case_row` says, by the weight's name and the number of rows of activations."""
    found = {}
    for name, (out_size, in_size) in shapes.items():
        weights = _cold_weights(ops, out_size, in_size, cache_bytes)
        for rows in ROWS:
            case = _case(ops, name, rows, weights, out_size, in_size)
            row = case_row(case, median_s(ops, case.run, repeats), roofs)
            if isinstance(ops, CudaOps):
                run = _gemm(ops, rows, weights, out_size, in_size)
                row["gemm us"] = round(median_s(ops, run, repeats) * 1e6, 1)
            found[case.name] = row
    return found


def _case(
    ops: Ops, name: str, rows: int, weights: Iterator[Array], out_size: int, in_size: int
) -> Case:
    x, norm = _normal(ops, rows, in_size), _normal(ops, in_size)
    products: dict[str, Callable[[], Array]] = {
        "qkv_proj": lambda: ops.norm_linear(x, norm, EPS, next(weights)),
        "gate_up_proj": lambda: ops.norm_swiglu(x, norm, EPS, next(weights)),
        "lm_head": lambda: ops.norm_logits(x, norm, EPS, next(weights)),
    }
    residual = _normal(ops, rows, out_size)
    run = products.get(name, partial(_add, ops, x, weights, residual))
    num_bytes = (out_size * in_size + rows * (in_size + out_size)) * ops.storage_dtype.itemsize
    return Case(f"{name}, {rows} rows", run, num_bytes, 2 * rows * out_size * in_size)


def _add(ops: Ops, x: Array, weights: Iterator[Array], residual: Array) -> Array:
    return ops.linear(x, next(weights), None, residual)


def _gemm(
    ops: CudaOps, rows: int, weights: Iterator[Array], out_size: int, in_size: int
) -> Callable[[], Array]:
    x, out = _normal(ops, rows, in_size), ops.empty((rows, out_size))

    def run() -> Array:
        ops.device.gemm(x, next(weights), out)
        return out

    return run


def _normal(ops: Ops, *shape: int) -> Array:
    host = np.random.default_rng(0).standard_normal(shape, np.float32)
    return ops.upload(host.astype(ops.dtype).astype(ops.storage_dtype))


def _cold_weights(ops: Ops, out_size: int, in_size: int, cache_bytes: int) -> Iterator[Array]:
    """Equal weights in turn, so many that each has left the cache when its turn comes."""
    part = _normal(ops, min(out_size, 1024), in_size)
    copies = 1 + cache_bytes // (out_size * in_size * ops.storage_dtype.itemsize)
    weights = [ops.empty((out_size, in_size)) for _ in range(copies)]
    for weight in weights:
        for first in range(0, out_size, len(part)):
            rows = weight[first : first + len(part)]
            rows[...] = part[: len(rows)]
    return cycle(weights)


if __name__ == "__main__":
    sys.exit(main())
