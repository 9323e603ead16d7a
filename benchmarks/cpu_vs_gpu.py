"""NumPy against CUDA on the same model: prefill, decode, and decode in batches.

    python -m benchmarks.cpu_vs_gpu --model FOLDER --json FILE

Each backend runs in a process of its own; they take turns. Where there is no GPU it says so and
measures NumPy alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import DECODE_TOKENS, PREFILL_TOKENS, measure
from benchmarks.report import describe_run, load_average, ratios, table, write_json
from benchmarks.workers import open_workers, vocab_size_of

BACKENDS = ("cuda", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face layout")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU's BLAS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prefill-tokens", type=int, default=PREFILL_TOKENS)
    parser.add_argument("--decode-tokens", type=int, default=DECODE_TOKENS)
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    report = compare(
        arguments.model,
        threads=arguments.threads,
        repeats=arguments.repeats,
        prefill_tokens=arguments.prefill_tokens,
        decode_tokens=arguments.decode_tokens,
    )
    print(table(report["results"]))
    for measurement, found in report["ratios"].items():
        for pair, ratio in found.items():
            print(f"{measurement}: {pair} = {ratio['median']} (best {ratio['best']})")
    for name, reason in report["could_not_run"].items():
        print(f"could not run {name}: {reason}")
    write_json(arguments.json, report)
    return 0


def compare(model: Path, *, threads: int, repeats: int, **sizes: int) -> dict[str, Any]:
    """The whole report; `sizes` are those of `measure`."""
    load_before = load_average()
    with ExitStack() as stack:
        models = dict.fromkeys(BACKENDS, model)
        workers, could_not_run = open_workers(stack, models, threads=threads)
        measured = measure(
            workers,
            vocab_size=vocab_size_of(model),
            repeats=repeats,
            batched=BACKENDS,
            sizes=sizes,
        )
        notes = {name: worker.note for name, worker in workers.items()}
    return {
        **describe_run(),
        "model": model.resolve().name,
        "threads": threads,
        "engines": notes,
        "could_not_run": could_not_run,
        **measured,
        "ratios": {kind: ratios(found, of="cuda") for kind, found in measured["results"].items()},
        "load_average": {"before": load_before, "after": load_average()},
    }


if __name__ == "__main__":
    sys.exit(main())
