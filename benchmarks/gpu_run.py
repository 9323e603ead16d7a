"""Everything that a GPU should be asked, in one command and within a time limit.

    python -m benchmarks.gpu_run --results DIR --log DIR/gpu-run.log --limit-s 570

Compiles all kernels, runs the GPU tests, then under compute-sanitizer, times the kernels and
compares with NumPy. Each part has a process and a limit of its own and is written down as soon
as it ends. `--rehearse` goes the same way without a GPU, on small sizes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu_tests import (
    ROOT,
    RUNS,
    Run,
    append,
    describe_gpu,
    file_name,
    passed,
    run_limited,
    run_tests,
)
from benchmarks.report import describe_machine, write_json
from llama_cu.bench.shapes import SHAPES
from llama_cu.ops.cuda_kernels import cached_cubin, default_cache_dir
from llama_cu.ops.cuda_templates import HEAD_DIMS, Specialisation, specialisations
from tests.checkpoints import SMALL_LLAMA, random_checkpoint

TEST_HEAD_DIMS = (8, 16, *HEAD_DIMS)
# What `llama-cu bench` is asked for: a name, the shape of the random weights, and more options.
BENCHES = (
    ("8b", "llama-3.1-8b", ("--batch-sizes", "1", "--contexts", "512,8192,32768")),
    ("8b overlap", "llama-3.1-8b", ("--overlap", "--batch-sizes", "1", "--contexts", "512,8192")),
    ("8b x64", "llama-3.1-8b", ("--batch-sizes", "64", "--contexts", "1024")),
    ("8b int4", "llama-3.1-8b", ("--quantize", "int4", "--batch-sizes", "1,8,32")),
    ("8b int8", "llama-3.1-8b", ("--quantize", "int8", "--batch-sizes", "1,8,32")),
    (
        "8b int4 kv8",
        "llama-3.1-8b",
        ("--quantize", "int4", "--kv-dtype", "int8", "--batch-sizes", "1", "--contexts", "32768"),
    ),
    ("1b", "llama-3.2-1b", ("--contexts", "512,4096")),
    ("1b overlap", "llama-3.2-1b", ("--overlap", "--batch-sizes", "1", "--contexts", "512,4096")),
    ("135m", "smollm2-135m", ("--contexts", "512,4096")),
    ("135m overlap", "smollm2-135m", ("--overlap", "--batch-sizes", "1", "--contexts", "512")),
    ("story", "story", ("--contexts", "256")),
)
# What `kernels` times: a name, and its options.
KERNELS = (
    ("1b", ("--random", "llama-3.2-1b", "--context", "2048")),
    ("attention 8k", ("--random", "llama-3.1-8b", "--context", "8192", "--sequences", "32")),
)
REHEARSAL = Run("pytest", ("-k", "cpu_device-float32 and softmax", "tests/test_ops.py"), 60, "")
LEAST_S = 5.0  # a part is not begun with less


@dataclass(frozen=True)
class Part:
    """A part of the run: what it does within a number of seconds, giving what is kept of it."""

    name: str
    limit_s: float
    run: Callable[[float], dict[str, Any]]


class GpuRun:
    """The parts, where their results go, and the time that is left."""

    def __init__(
        self, *, results: list[Path], log: Path, limit_s: float, commit: str | None, rehearse: bool
    ) -> None:
        self.results, self.log, self.rehearse = results, log, rehearse
        self.deadline = time.monotonic() + limit_s
        if rehearse:
            self.machine: dict[str, Any] = {"device": "rehearsal", **describe_machine()}
        else:
            self.machine = describe_gpu(commit=commit)
        self.commit = commit
        self.name = file_name(self.machine["device"])
        self.tests: dict[str, Any] = {}

    def parts(self, folder: Path) -> list[Part]:
        """In the order of their worth, as the time may not suffice for all."""
        runs = (REHEARSAL, *RUNS[1:]) if self.rehearse else RUNS
        tests = [Part(run.name, run.limit_s, partial(self._tests, run)) for run in runs]
        story = partial(self._compare, ROOT / "models" / "story", "story")
        return [
            Part("compile", 90, self._compile),
            tests[0],
            *(Part(f"bench {one[0]}", 90, partial(self._bench, folder, *one)) for one in BENCHES),
            *(Part(f"kernels {one[0]}", 90, partial(self._kernels, *one)) for one in KERNELS),
            tests[1],
            Part("matvec", 60, self._matvec),
            Part("peers 8b", 420, partial(self._peers, "llama-3.1-8b")),
            Part("peers 135m", 240, partial(self._peers, "smollm2-135m")),
            Part("cpu_vs_gpu story", 60, story),
            Part("cpu_vs_gpu random", 90, partial(self._compare_random, folder)),
            *tests[2:],
        ]

    def run(self, names: list[str] | None) -> bool:
        """Run the parts whose names begin with one of these (default: all); whether none failed."""
        ended: dict[str, Any] = {}
        with TemporaryDirectory() as scratch:
            for part in self.parts(Path(scratch)):
                if names is not None and not part.name.startswith(tuple(names)):
                    continue
                left_s = self.deadline - time.monotonic()
                if left_s < LEAST_S:
                    ended[part.name] = {"could_not_run": "no time was left"}
                else:
                    ended[part.name] = part.run(min(part.limit_s, left_s))
                self._write(f"gpu-run-{self.name}.json", {**self.machine, "parts": ended})
                print(f"{part.name}: {json.dumps(ended[part.name])}", flush=True)
        return all(passed(part) for part in ended.values())

    def _write(self, name: str, content: dict[str, Any]) -> None:
        for folder in self.results:
            write_json(folder / name, content)

    def _compile(self, limit_s: float) -> dict[str, Any]:
        """All kernels that the tests ask for, on all cores, so that no test waits for NVRTC."""
        head_dims, arch = (TEST_HEAD_DIMS, int(self.machine.get("compute_capability", 90)))
        wanted = specialisations(arch, head_dims=() if self.rehearse else head_dims)
        wanted = wanted[:4] if self.rehearse else wanted
        started = time.monotonic()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(mp_context=context) as pool:
            done = [pool.submit(compile_one, one, arch) for one in wanted]
            broken = [future.result() for future in done]
        seconds = round(time.monotonic() - started, 1)
        errors = [error for error in broken if error]
        append(self.log, "".join(f"\n{error}" for error in errors))
        return {"exit_code": int(bool(errors)), "seconds": seconds, "kernels": len(wanted)}

    def _tests(self, run: Run, limit_s: float) -> dict[str, Any]:
        found = run_tests(run, limit_s=limit_s, log=self.log)
        self.tests[run.name] = found
        self._write(f"gpu-tests-{self.name}.json", {**self.machine, "runs": self.tests})
        return found

    def _bench(
        self, folder: Path, name: str, shape: str, options: tuple[str, ...], limit_s: float
    ) -> dict[str, Any]:
        """`llama-cu bench`, whose JSON comes out of it."""
        command = [sys.executable, "-m", "llama_cu", "bench", "--json", "--random", shape, *options]
        if self.rehearse:
            command += ["--device", "cpu", "--contexts", "16", "--batch-sizes", "2"]
            command += ["--prompt-len", "16", "--steps", "1", "--repeats", "1"]
        else:
            command += ["--device", "cuda"]
        found = folder / "bench.json"
        exit_code, seconds = run_limited(
            command, limit_s=limit_s, variables={}, log=self.log, stdout=found
        )
        if exit_code == 0:
            content = {"commit": self.commit or self.machine.get("commit", "unknown")}
            content |= json.loads(found.read_text("utf-8"))
            self._write(f"bench-{name.replace(' ', '-')}-{self.name}.json", content)
        return {"exit_code": exit_code, "seconds": seconds}

    def _kernels(self, name: str, options: tuple[str, ...], limit_s: float) -> dict[str, Any]:
        if self.rehearse:
            options = ("--random", "story", "--context", "64", "--repeats", "1", "--cache-mb", "1")
        options += ("--device", "cpu" if self.rehearse else "cuda")
        options += ("--only", "attention") if name.startswith("attention") else ()
        name = f"kernels-{name.replace(' ', '-')}"
        return self._benchmark("kernels", None, [*options], name=name, limit_s=limit_s)

    def _peers(self, shape: str, limit_s: float) -> dict[str, Any]:
        options = ["--device", "cuda", "--random", shape, "--repeats", "3"]
        return self._benchmark("peers", None, options, name=f"peers-{shape}", limit_s=limit_s)

    def _matvec(self, limit_s: float) -> dict[str, Any]:
        options = ["--device", "cpu" if self.rehearse else "cuda"]
        options += (
            ["--shapes", "smollm2-135m", "--repeats", "1", "--cache-mb", "1"]
            if self.rehearse
            else []
        )
        return self._benchmark("matvec", None, options, name="matvec", limit_s=limit_s)

    def _compare(self, model: Path, name: str, limit_s: float) -> dict[str, Any]:
        if not (model / "model.safetensors").is_file():
            return {"could_not_run": f"{model.name} has no weights here"}
        options = ["--repeats", "1" if self.rehearse else "3"]
        options += ["--threads", str(min(16, os.cpu_count() or 1))]
        options += ["--prefill-tokens", str(min(512, _context(model) - 1))]
        return self._benchmark(
            "cpu_vs_gpu", model, options, name=f"cpu-vs-gpu-{name}", limit_s=limit_s
        )

    def _compare_random(self, folder: Path, limit_s: float) -> dict[str, Any]:
        shape = SMALL_LLAMA | {"max_position_embeddings": 1024}
        model = folder / "135m-shapes"
        if self.rehearse:
            random_checkpoint(model, shape)
        else:
            random_checkpoint(model, SHAPES["smollm2-135m"], dtype="bfloat16")
        return self._compare(model, model.name, limit_s)

    def _benchmark(
        self, module: str, model: Path | None, options: list[str], *, name: str, limit_s: float
    ) -> dict[str, Any]:
        """Run a benchmark of this folder; its report, with the commit, goes to the results."""
        report = self.results[0] / f"{name}-{self.name}.json"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--json", str(report)]
        command += ["--model", str(model)] if model else []
        exit_code, seconds = run_limited(command, limit_s=limit_s, variables={}, log=self.log)
        if report.is_file():
            content = json.loads(report.read_text("utf-8"))
            self._write(report.name, content | ({"commit": self.commit} if self.commit else {}))
        return {"exit_code": exit_code, "seconds": seconds}


def _context(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text("utf-8"))["max_position_embeddings"])


def compile_one(specialisation: Specialisation, arch: int) -> str:
    """Put a kernel into the cache; what the compiler said against it, or nothing."""
    try:
        cached_cubin(specialisation, arch=arch, cache_dir=default_cache_dir())
    except ValueError as error:
        return str(error)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "benchmarks" / "results"
    parser.add_argument("--results", type=Path, action="append", help="may be given repeatedly")
    parser.add_argument("--log", type=Path, default=Path("gpu-run.log"), help="of all output")
    parser.add_argument("--limit-s", type=float, default=570)
    parser.add_argument("--part", action="append", help="one part of it; may be given repeatedly")
    parser.add_argument("--commit", help="where git cannot tell")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, on small sizes")
    arguments = parser.parse_args()
    results = [folder.resolve() for folder in arguments.results or [default]]
    for folder in (*results, arguments.log.resolve().parent):
        folder.mkdir(parents=True, exist_ok=True)
    run = GpuRun(
        results=results,
        log=arguments.log.resolve(),
        limit_s=arguments.limit_s,
        commit=arguments.commit,
        rehearse=arguments.rehearse,
    )
    return int(not run.run(arguments.part))


if __name__ == "__main__":
    sys.exit(main())
