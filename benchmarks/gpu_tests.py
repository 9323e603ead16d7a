"""Runs the GPU tests on this machine's GPU, plainly and under compute-sanitizer, and records it.

    python -m benchmarks.gpu_tests --results benchmarks/results

writes gpu-tests-<device>.json with device, driver, CuPy, commit, and the counts of each run. The
file is written after every run, so that a run that takes too long loses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.pytest_gpu import GPU_MEMORY, OUTCOMES
from benchmarks.report import write_json

ROOT = Path(__file__).resolve().parents[1]
TIMED_OUT = 124

# Other plugins and warnings of other packages are not what is tested; nor is a cache wanted.
PYTEST = ("-m", "pytest", "-q", "-p", "benchmarks.pytest_gpu", "-p", "no:cacheprovider")
SETTINGS = ("-o", "filterwarnings=default")
# CuPy and cuBLAS try things that may fail: errors of the API are theirs to handle.
SANITIZER_OPTIONS = (
    *("--target-processes", "all"),
    *("--error-exitcode", "9"),
    *("--report-api-errors", "no"),
)

OPS = (
    "tests/test_ops.py",
    "tests/test_matvec.py",
    "tests/test_quantized.py",
    "tests/test_kept_blocks.py",
    "tests/test_rotate_and_store.py",
    "tests/test_attention.py",
    "tests/test_int8_cache.py",
    "tests/test_sampling.py",
    "tests/test_wide_sampling.py",
)
# Of every kernel that shares memory between threads, one shape; a tool slows it some 100 times.
SHARING = (
    "cuda-float32 and not linear and not unfused and (test_rms_norm and 100-3 or head_norm and 80-3"
    " or softmax and 5-30 or ragged and 20 or groups and 100 or greedy and 1000"
    " or draws_the_same and 1000 or every_kind and 8193 or test_logprobs and 5-1000-5)"
)


@dataclass(frozen=True)
class Run:
    """One pytest run: which tests, under which tool of compute-sanitizer if any, for how long."""

    name: str
    tests: tuple[str, ...]
    limit_s: float
    memory: str
    tool: str | None = None


RUNS = (
    Run("pytest", ("-m", "gpu"), 180, "poisoned"),
    Run("memcheck", ("-m", "gpu", "-k", "not bfloat16", *OPS), 150, "exact", "memcheck"),
    Run("racecheck", ("-m", "gpu", "-k", SHARING, *OPS), 60, "poisoned", "racecheck"),
    Run("synccheck", ("-m", "gpu", "-k", SHARING, *OPS), 60, "poisoned", "synccheck"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--commit", help="where git cannot tell")
    arguments = parser.parse_args()
    machine = describe_gpu(commit=arguments.commit)
    path = arguments.results / f"gpu-tests-{file_name(machine['device'])}.json"
    found: dict[str, Any] = {}
    for run in RUNS:
        found[run.name] = run_tests(run)
        write_json(path, {**machine, "runs": found})
        print(run.name, json.dumps(found[run.name]), flush=True)
    print(path)
    return int(not all(passed(run) for run in found.values()))


def file_name(device: str) -> str:
    """A device's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def describe_gpu(*, commit: str | None = None) -> dict[str, str]:
    """Device, driver, CuPy, Python, commit and date; an error where there is no device."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "device": properties["name"].decode(),
        "compute_capability": cupy.cuda.Device(0).compute_capability,
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
        "cupy": cupy.__version__,
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "python": sys.version.split()[0],
        "commit": commit or _head() or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _head() -> str:
    if shutil.which("git") is None:
        return ""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def gpu_test_files() -> list[str]:
    """The test files that have tests for a GPU: others may need packages that are not there."""
    marked = re.compile(r"mark\.gpu|\b(DEVICE_)?BACKENDS\b")
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [f"tests/{path.name}" for path in files if marked.search(path.read_text("utf-8"))]


def run_tests(run: Run, *, limit_s: float | None = None, log: Path | None = None) -> dict[str, Any]:
    """Counts, seconds and exit code of one run; exit code 124 where the time ran out."""
    prefix: list[str] = []
    if run.tool is not None:
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            return {"could_not_run": "compute-sanitizer is not installed"}
        prefix = [sanitizer, "--tool", run.tool, *SANITIZER_OPTIONS]
    files = [] if any(test.endswith(".py") for test in run.tests) else gpu_test_files()
    with TemporaryDirectory() as folder:
        outcomes, output = Path(folder) / "outcomes", Path(folder) / "output"
        command = [*prefix, sys.executable, *PYTEST, *SETTINGS, *run.tests, *files]
        variables = {
            OUTCOMES: str(outcomes),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **({GPU_MEMORY: run.memory} if "gpu" in run.tests else {}),
        }
        limit_s = run.limit_s if limit_s is None else min(limit_s, run.limit_s)
        exit_code, seconds = run_limited(command, limit_s=limit_s, variables=variables, log=output)
        text = output.read_text("utf-8", "replace")
        lines = outcomes.read_text("utf-8").splitlines() if outcomes.exists() else []
    if log is None:
        print(text)
    else:
        append(log, f"\n$ {run.name}: exit code {exit_code} after {seconds} s\n{text}")
    words = (Path(word).name if word.startswith("/") else word for word in command)
    return {
        "command": " ".join(words),
        "exit_code": exit_code,
        "seconds": seconds,
        **count(json.loads(line) for line in lines),
        **({"sanitizer_errors": sanitizer_errors(text)} if run.tool else {}),
    }


def run_limited(
    command: Sequence[str],
    *,
    limit_s: float,
    variables: Mapping[str, str],
    log: Path,
    stdout: Path | None = None,
) -> tuple[int, float]:
    """Exit code and seconds; at the limit the process and its children are ended, with code 124.

    What it writes goes to the log, or what it writes to stdout to a file of its own.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    started = time.monotonic()
    with ExitStack() as files:
        output = files.enter_context(log.open("ab"))
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output if stdout is None else files.enter_context(stdout.open("wb")),
            stderr=output,
            start_new_session=True,
        )
        try:
            exit_code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            exit_code = TIMED_OUT
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return exit_code, round(time.monotonic() - started, 1)


def append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


def count(outcomes: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and which failed."""
    last = {outcome["test"]: outcome["outcome"] for outcome in outcomes}
    counts = Counter(last.values())
    failures = [test for test, outcome in last.items() if outcome == "failed"]
    counted = {name: counts[name] for name in ("passed", "failed", "skipped")}
    return {**counted, **({"failures": failures} if failures else {})}


def sanitizer_errors(output: str) -> int:
    """Errors in compute-sanitizer's output: by its summaries, or by its reports where none came."""
    summaries = [
        int(number)
        for line in output.splitlines()
        if "SUMMARY:" in line and (number := next(iter(re.findall(r"\d+", line)), None))
    ]
    reports = re.findall(r"^========= (?:Invalid|Error: |Barrier|Uninit|.*hazard)", output, re.M)
    return sum(summaries) if summaries else len(reports)


def passed(run: Mapping[str, Any]) -> bool:
    """Whether a run ended well; one that could not run did not fail either."""
    clean = not run.get("sanitizer_errors")
    return "could_not_run" in run or (run["exit_code"] == 0 and clean)


if __name__ == "__main__":
    sys.exit(main())
