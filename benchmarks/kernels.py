"""Times each op of a backend alone, in the shapes of a model, against the device's roofs.

    python -m benchmarks.kernels --random llama-3.2-1b --device cuda --json FILE

Weights and activations are random: of a model only config.json is read. An op is queued many times
and waited for once, so launches overlap as they do in the engine; of weights there are enough
copies that none is read from a cache. An op is given its share of the read bandwidth and, where it
multiplies, of the GEMM rate, both measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.kernel_cases import Case, Problem
from benchmarks.report import describe_run, load_average, write_json
from llama_cu.bench.roofs import Roofs, measure_roofs
from llama_cu.bench.shapes import SHAPES, random_config
from llama_cu.checkpoint.config import ModelConfig, load_config
from llama_cu.errors import BackendUnavailable
from llama_cu.ops.backend import get_ops
from llama_cu.ops.base import Ops

Array = Any

CALLS = 10
# More than the last-level cache of any CPU or GPU that this is likely to meet.
CACHE_BYTES = 256 << 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="folder with a config.json")
    source.add_argument("--random", choices=SHAPES, help="the shapes of this model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--context", type=int, default=512, help="tokens before the step ends")
    parser.add_argument("--sequences", type=int, default=1, help="that decode at a time")
    parser.add_argument("--only", help="ops whose names begin so")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cache-mb", type=int, default=CACHE_BYTES >> 20, help="to be outgrown")
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    config = load_config(arguments.model) if arguments.model else random_config(arguments.random)
    try:
        ops, _ = get_ops(arguments.device, arguments.dtype, checkpoint_dtype=config.dtype)
    except BackendUnavailable as reason:
        print(f"could not run: {reason}", file=sys.stderr)
        return 1
    report = time_ops(
        ops,
        config,
        measure_roofs(ops),
        context=arguments.context,
        num_seqs=arguments.sequences,
        only=arguments.only or "",
        repeats=arguments.repeats,
        cache_bytes=arguments.cache_mb << 20,
    )
    report["model"] = arguments.random or arguments.model.resolve().name
    for step, found in report["steps"].items():
        print(f"{step} of {report['context']} on {report['device']}, {report['dtype']}")
        for name, row in found.items():
            print(f"  {name:<16}{json.dumps(row)}")
    write_json(arguments.json, report)
    return 0


def time_ops(
    ops: Ops,
    config: ModelConfig,
    roofs: Roofs,
    *,
    context: int,
    num_seqs: int = 1,
    only: str = "",
    repeats: int,
    cache_bytes: int = CACHE_BYTES,
) -> dict[str, Any]:
    """Each op's median time, when the last tokens of contexts are decoded, and in a prefill.

    `only` leaves out the ops whose names begin otherwise.
    """
    steps = {}
    for step, seqs, num_tokens in (("decode", num_seqs, 1), ("prefill", 1, context)):
        problem = Problem(
            ops,
            config,
            num_seqs=seqs,
            num_tokens=num_tokens,
            context=context,
            cache_bytes=cache_bytes,
        )
        steps[step] = {
            case.name: case_row(case, median_s(ops, case.run, repeats), roofs)
            for case in problem.cases(only)
        }
    return {
        **describe_run(),
        "device": ops.device_name,
        "dtype": ops.dtype.name,
        "context": context,
        "sequences": num_seqs,
        "roofs": asdict(roofs),
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


def case_row(case: Case, seconds: float, roofs: Roofs) -> dict[str, float]:
    """What is reported of a case that took so long."""
    read, computed = case.num_bytes / seconds, case.flops / seconds
    row = {
        "us": round(seconds * 1e6, 1),
        "GB/s": round(read / 1e9, 1),
        "% of reading": round(100 * read / roofs.read_bytes_per_s, 1),
    }
    if case.flops:
        row["GFLOP/s"] = round(computed / 1e9, 1)
        row["% of GEMM rate"] = round(100 * computed / roofs.gemm_flops_per_s, 1)
    return row


if __name__ == "__main__":
    sys.exit(main())
