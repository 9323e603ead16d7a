"""Runs the GPU tests on this machine's GPU, plainly and under compute-sanitizer, and records it.

    python benchmarks/gpu_tests.py --results benchmarks/results

writes gpu-tests-<device>.json with device, driver, CuPy, commit, and the counts of each run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]

# A sanitizer runs a kernel some ten times slower: the ops on their awkward shapes are enough.
SANITIZED = ("memcheck", "racecheck", "synccheck")
SANITIZED_TESTS = ("tests/test_ops.py", "-k", "not chi_square")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--sanitizer-limit-s", type=float, default=240)
    arguments = parser.parse_args()
    machine = describe_machine()
    runs = {"pytest": run_tests(["-m", "gpu"], [], limit_s=3600)}
    sanitizer = shutil.which("compute-sanitizer")
    for tool in SANITIZED if sanitizer else ():
        prefix = [str(sanitizer), "--tool", tool, "--error-exitcode", "9", "--target-processes=all"]
        tests = ["-m", "gpu", *SANITIZED_TESTS]
        runs[tool] = run_tests(tests, prefix, limit_s=arguments.sanitizer_limit_s)
    name = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"gpu-tests-{name}.json"
    path.write_text(json.dumps({**machine, "runs": runs}, indent=2) + "\n")
    print(path)
    print(json.dumps(runs, indent=2))
    return int(any(run["exit_code"] for run in runs.values()))


def describe_machine() -> dict[str, str]:
    """Device, driver, CuPy, Python and commit; an error where there is no device."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": properties["name"].decode(),
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
        "cupy": cupy.__version__,
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "python": sys.version.split()[0],
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def run_tests(tests: list[str], prefix: list[str], *, limit_s: float) -> dict[str, object]:
    """Counts, seconds and exit code of one pytest run; exit code 124 where the time ran out."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*prefix, sys.executable, "-m", "pytest", "-q", *tests, f"--junitxml={report}"]
        started = time.monotonic()
        try:
            exit_code = subprocess.run(command, cwd=ROOT, timeout=limit_s, check=False).returncode
        except subprocess.TimeoutExpired:
            exit_code = 124
        seconds = round(time.monotonic() - started, 1)
        counts = count(report) if report.exists() else {}
    command_line = " ".join(Path(word).name if "/" in word else word for word in command[:-1])
    return {"command": command_line, "exit_code": exit_code, "seconds": seconds, **counts}


def count(report: Path) -> dict[str, int]:
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    totals = {
        name: sum(int(suite.get(name, 0)) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    failed = totals["failures"] + totals["errors"]
    passed = totals["tests"] - failed - totals["skipped"]
    return {"passed": passed, "failed": failed, "skipped": totals["skipped"]}


if __name__ == "__main__":
    sys.exit(main())
