"""llama-cu against Hugging Face transformers, llama.cpp, and plain loops in NumPy and in torch.

    python -m benchmarks.peers --model FOLDER --gguf FILE --json FILE
    python -m benchmarks.peers --device cuda --random llama-3.1-8b --json FILE

Each engine runs in a process of its own. On the CPU they have the same number of threads and take
turns; on a GPU each has the card for itself, as it may fill it, one after the other. Also measured:
how soon `llama-cu` answers after its process starts, on the CPU the embedded story model too.
Needs `pip install torch transformers` and `pip install llama-cpp-python` for the peers; what is
not installed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import measure, play_round, summarise
from benchmarks.report import (
    ROOT,
    describe_run,
    durations,
    load_average,
    ratios,
    table,
    write_json,
)
from benchmarks.workers import Worker, open_workers, vocab_size_of
from llama_cu.bench.shapes import SHAPES
from llama_cu.checkpoint.tensor_set import has_tensors

STORY = ROOT / "models" / "story"
STORY_TOKENS = 256
GPU_ENGINES = ("cuda", "transformers eager", "transformers compiled", "torch graph")
GPU_SIZES = {"prefill_tokens": 2048, "prompt_tokens": 512, "decode_tokens": 128}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="folder in Hugging Face layout")
    source.add_argument("--random", choices=SHAPES, help="random weights of this shape, on a GPU")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    if arguments.random and arguments.device == "cpu":
        parser.error("--random needs --device cuda")
    with TemporaryDirectory() as scratch:
        model = arguments.model or _shape_folder(Path(scratch), arguments.random)
        run = compare if arguments.device == "cpu" else compare_on_gpu
        report = run(model, arguments.gguf, threads=arguments.threads, repeats=arguments.repeats)
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
        measured = measure(workers, vocab_size=vocab_size_of(model), repeats=repeats, sizes=sizes)
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


def compare_on_gpu(
    model: Path, gguf: Path | None, *, threads: int, repeats: int, **sizes: int
) -> dict[str, Any]:
    """The whole report; `sizes` are those of `play_round`."""
    sizes = GPU_SIZES | sizes
    models = dict.fromkeys(GPU_ENGINES, model)
    could_not_run: dict[str, str] = {}
    if gguf is not None:
        models["llama.cpp GPU"] = gguf
    else:
        could_not_run["llama.cpp GPU"] = "no --gguf was given"
    max_len = max(sizes["prefill_tokens"], sizes["prompt_tokens"] + sizes["decode_tokens"]) + 1
    rounds, notes, vocab_size = {}, {}, vocab_size_of(model)
    for name, path in models.items():
        try:
            with Worker(name, path, threads=threads, max_len=max_len) as worker:
                numbers = range(repeats + 1)
                rounds[name] = [
                    play_round(worker, number, vocab_size=vocab_size, **sizes) for number in numbers
                ]
                notes[name] = worker.note
        except RuntimeError as reason:
            could_not_run[name] = str(reason)
    measured = summarise(rounds) if rounds else {"results": {}, "agreeing_tokens": {}}
    results = measured.pop("results")
    compared = {kind: ratios(found, of="cuda") for kind, found in results.items()}
    if "cuda" in rounds:
        start = start_times(threads=threads, repeats=repeats, device="cuda")
        results["process start"] = start
    return {
        **describe_run(),
        "model": model.resolve().name,
        "weights": "checkpoint" if has_tensors(model) else "random",
        "sizes": sizes,
        "engines": notes,
        "could_not_run": could_not_run,
        "results": results,
        "ratios": compared,
        **measured,
    }


def _shape_folder(scratch: Path, name: str) -> Path:
    """A folder that has a shape's config.json alone."""
    folder = scratch / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPES[name]), "utf-8")
    return folder


def story_speed(*, threads: int, repeats: int) -> dict[str, Any]:
    """tok/s of the embedded story model, one sequence."""
    with ExitStack() as stack:
        workers, _ = open_workers(stack, {"numpy": STORY}, threads=threads)
        sizes = {"decode_tokens": STORY_TOKENS, "prefill_tokens": STORY_TOKENS}
        measured = measure(workers, vocab_size=vocab_size_of(STORY), repeats=repeats, sizes=sizes)
    found: dict[str, Any] = measured["results"][f"decode {STORY_TOKENS}"]
    return found


def start_times(*, threads: int, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """Seconds from the start of a process to what its user waits for.

    One run before the first counted one lets the system read the files, and a GPU's kernels be
    compiled.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    timed: dict[str, Callable[[], float]] = {
        "llama-cu --help": lambda: _help_s(environment),
        "llama-cu story, first token": lambda: _first_token_s(environment, device),
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


def _first_token_s(environment: dict[str, str], device: str) -> float:
    """Until `llama-cu story` has written more than its prompt; then it is stopped."""
    prompt = "Once upon a time"
    command = [sys.executable, "-m", "llama_cu", "story", prompt, "--device", device]
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
