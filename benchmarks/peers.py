"""llama-cu on the CPU against Hugging Face transformers, llama.cpp, and a bare NumPy loop.

    python -m benchmarks.peers --model FOLDER --gguf FILE --json FILE

Each engine runs in a process of its own with the same number of threads; they take turns. Also
measured: the embedded story model, and how soon `llama-cu` answers after its process starts.
Needs `pip install torch transformers` and `pip install llama-cpp-python` for the peers; what is
not installed is named and left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import measure
from benchmarks.report import (
    ROOT,
    describe_run,
    durations,
    load_average,
    ratios,
    table,
    write_json,
)
from benchmarks.workers import open_workers, vocab_size_of

STORY = ROOT / "models" / "story"
STORY_TOKENS = 256


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face layout")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    report = compare(
        arguments.model,
        arguments.gguf,
        threads=arguments.threads,
        repeats=arguments.repeats,
    )
    print(table(report["results"]))
    for measurement, found in report["ratios"].items():
        for pair, ratio in found.items():
            print(f"{measurement}: {pair} = {ratio['median']} (best {ratio['best']})")
    for name, reason in report["could_not_run"].items():
        print(f"could not run {name}: {reason}")
    write_json(arguments.json, report)
    return 0


def compare(
    model: Path, gguf: Path | None, *, threads: int, repeats: int, **sizes: int
) -> dict[str, Any]:
    """The whole report; `sizes` are those of `measure`."""
    load_before = load_average()
    models = dict.fromkeys(("numpy", "bare NumPy", "transformers"), model)
    if gguf is not None:
        models["llama.cpp"] = gguf
    with ExitStack() as stack:
        workers, could_not_run = open_workers(stack, models, threads=threads)
        measured = measure(workers, vocab_size=vocab_size_of(model), repeats=repeats, **sizes)
        notes = {name: worker.note for name, worker in workers.items()}
    if gguf is None:
        could_not_run["llama.cpp"] = "no --gguf was given"
    results = measured.pop("results")
    compared = {kind: ratios(found, of="numpy") for kind, found in results.items()}
    results["story model, decode"] = story_speed(threads=threads, repeats=repeats)
    results["process start"] = start_times(threads=threads, repeats=repeats)
    return {
        **describe_run(),
        "model": model.resolve().name,
        "threads": threads,
        "engines": notes,
        "could_not_run": could_not_run,
        "results": results,
        "ratios": compared,
        **measured,
        "load_average": {"before": load_before, "after": load_average()},
    }


def story_speed(*, threads: int, repeats: int) -> dict[str, Any]:
    """tok/s of the embedded story model, one sequence."""
    with ExitStack() as stack:
        workers, _ = open_workers(stack, {"numpy": STORY}, threads=threads)
        sizes = {"decode_tokens": STORY_TOKENS, "prefill_tokens": STORY_TOKENS}
        measured = measure(workers, vocab_size=vocab_size_of(STORY), repeats=repeats, **sizes)
    found: dict[str, Any] = measured["results"][f"decode {STORY_TOKENS}"]
    return found


def start_times(*, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds from the start of a process to what its user waits for.

    One run before the first counted one lets the system read the files.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    timed: dict[str, Callable[[], float]] = {
        "llama-cu --help": lambda: _help_s(environment),
        "llama-cu story, first token": lambda: _first_token_s(environment),
    }
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats + 1):
        for name, run in timed.items():
            samples[name].append(run())
    return {name: durations(seconds[1:]) for name, seconds in samples.items()}


def _help_s(environment: dict[str, str]) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "llama_cu", "--help"]
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _first_token_s(environment: dict[str, str]) -> float:
    """Until `llama-cu story` has written more than its prompt; then it is stopped."""
    prompt = "Once upon a time"
    command = [sys.executable, "-m", "llama_cu", "story", prompt, "--device", "cpu"]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    written = b""
    with process, process.stdout as stdout:
        while len(written) <= len(prompt):
            piece = os.read(stdout.fileno(), 4096)
            if not piece:
                raise RuntimeError(f"llama-cu story ended after {written!r}")
            written += piece
        seconds = time.perf_counter() - started
        process.kill()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
