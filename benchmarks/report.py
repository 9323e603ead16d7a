"""What every benchmark writes down: machine, samples, medians. Knows no engine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

_PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "transformers", "llama-cpp-python")


def describe_run() -> dict[str, Any]:
    """Machine, versions, commit, command and date of this run."""
    commit = _output("git", "rev-parse", "HEAD")
    return {
        "machine": describe_machine(),
        "commit": commit or "unknown",
        "uncommitted_changes": bool(commit and _output("git", "status", "--porcelain")),
        "command": " ".join(Path(word).name if "/" in word else word for word in sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def describe_machine() -> dict[str, Any]:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": f"{blas['name']} {blas['version']}",
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")
        },
        "packages": dict(_installed(_PACKAGES)),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _installed(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def load_average() -> float | None:
    """Processes that wanted a core during the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def rates(counts: Iterable[int], seconds: Iterable[float]) -> dict[str, Any]:
    """Tokens per second of repeated measurements: the median, the best, and every sample."""
    samples = [count / s for count, s in zip(counts, seconds, strict=True)]
    return {"unit": "tok/s", **_summary(samples, max(samples))}


def durations(seconds: Iterable[float]) -> dict[str, Any]:
    """Seconds of repeated measurements: the median, the best, and every sample."""
    samples = list(seconds)
    return {"unit": "s", **_summary(samples, min(samples))}


def _summary(samples: list[float], best: float) -> dict[str, Any]:
    return {
        "median": _digits(statistics.median(samples)),
        "best": _digits(best),
        "samples": [_digits(sample) for sample in samples],
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def ratios(results: Mapping[str, Mapping[str, Any]], *, of: str) -> dict[str, dict[str, float]]:
    """How many times the rate of each other engine the engine `of` reaches, by median and best."""
    if of not in results:
        return {}
    ours = results[of]
    return {
        f"{of} / {name}": {
            which: round(ours[which] / other[which], 3) for which in ("median", "best")
        }
        for name, other in results.items()
        if name != of
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """results[measurement][engine] as aligned text, one measurement and engine a line."""
    rows = [("", "", "median", "best", "")]
    for measurement, engines in results.items():
        for name, found in engines.items():
            numbers = (f"{found['median']:.4g}", f"{found['best']:.4g}", found["unit"])
            rows.append((measurement, name, *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
