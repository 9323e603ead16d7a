"""The server under clients: throughput and latency, and the same answers as without company.

    python -m benchmarks.serve --model FOLDER --gguf FILE --json FILE     # figures, and llama.cpp's
    python -m benchmarks.serve --stress-s 120                             # random traffic, checked

The first measures one client and many, each with the same kind of request: a prompt of random
words, `--tokens` generated tokens; then the library with as many in a batch, without a server.
llama.cpp and its server (`pip install 'llama-cpp-python[server]'`, which answers one after the
other) run the same requests where they are installed and a GGUF file is given. The second sends
random requests of which some are abandoned, then asks a quiet library for every answer again.
Of a latency, the column "best" holds the 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.batched import random_prompts
from benchmarks.report import ROOT, describe_run, load_average, table, write_json
from benchmarks.traffic import Request, Seen, draw_request, run_clients

STORY = ROOT / "models" / "story"
STRESS_CLIENTS = 64
LEAVING = 0.3
_START_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=STORY, help="folder in Hugging Face layout")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp's server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stress-s", type=float, help="seconds of random traffic, checked")
    parser.add_argument("--json", type=Path, help="write the report here")
    arguments = parser.parse_args()
    if arguments.stress_s is not None:
        report = stress(arguments.model, arguments.stress_s, device=arguments.device)
    else:
        report = figures(arguments)
    print(table(report["results"]))
    for name, value in report["findings"].items():
        print(f"{name}: {value}")
    write_json(arguments.json, {**describe_run(), **report, "load_average": load_average()})
    return 1 if report["findings"].get("wrong answers") else 0


def figures(arguments: argparse.Namespace) -> dict[str, Any]:
    """One client and many against every server that can run, and the library alone, in turns."""
    commands = {"llama-cu": llama_cu_command(arguments.model, arguments.device)}
    files = {"llama-cu": arguments.model, "llama.cpp": arguments.gguf}
    findings: dict[str, Any] = {}
    if arguments.gguf is None or importlib.util.find_spec("llama_cpp") is None:
        findings["could not run llama.cpp"] = "no --gguf, or llama-cpp-python is not installed"
    else:
        commands["llama.cpp"] = llama_cpp_command(arguments.gguf)
    few, most = arguments.clients[0], arguments.clients[-1]
    loads: dict[str, dict[int, Load]] = {
        name: {count: Load() for count in arguments.clients} for name in commands
    }
    alone: dict[str, list[float]] = {name: [] for name in commands}
    http_shares: list[float] = []
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            with server(command) as (url, model, process):
                for num_clients, load in loads[name].items():
                    asyncio.run(ask(url, model, num_clients, arguments.tokens, each=1, seed=0))
                    began, spent = time.perf_counter(), main_thread_cpu_s(process.pid)
                    with load.timed() as seen:
                        seen += asyncio.run(
                            ask(url, model, num_clients, arguments.tokens, each=2, seed=1)
                        )
                    spent = main_thread_cpu_s(process.pid) - spent
                    share = spent / (time.perf_counter() - began)
            if name == "llama-cu":
                http_shares.append(share)
            alone[name].append(without_server(name, files[name], most, arguments))
    results: dict[str, dict[str, Any]] = {}
    for name, of_engine in loads.items():
        for num_clients, load in of_engine.items():
            for kind, row in load.summary().items():
                results.setdefault(f"{num_clients} clients, {kind}", {})[name] = row
        row = _rates(alone[name], "tok/s")
        results.setdefault(f"{most} in a batch, no server", {})[name] = row
        throughput = results[f"{most} clients, throughput"][name]["median"]
        over_few = throughput / results[f"{few} clients, throughput"][name]["median"]
        findings[f"{name}, many clients over one"] = round(over_few, 2)
        findings[f"{name}, server over library"] = round(throughput / row["median"], 3)
    findings[f"llama-cu, CPU time of HTTP per second, {most} clients"] = round(
        statistics.median(http_shares), 4
    )
    return {"model": arguments.model.resolve().name, "results": results, "findings": findings}


async def ask(
    url: str, model: str, num_clients: int, tokens: int, each: int, *, seed: int
) -> list[Seen]:
    fields = {"max_tokens": tokens, "temperature": 0.0, "logit_bias": {}}
    prompts = random_prompts(num_clients * each, seed=seed)
    requests = (Request({"prompt": prompt, **fields}, None) for prompt in prompts)
    return await run_clients(url, model, requests, num_clients=num_clients)


def without_server(
    engine: str, model: Path, num_clients: int, arguments: argparse.Namespace
) -> float:
    """tok/s of the same requests by the library itself, as many at a time."""
    command = [
        sys.executable, "-m", "benchmarks.batched", engine, str(model), "--clients",
        str(num_clients), "--tokens", str(arguments.tokens), "--device", arguments.device,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return float(done.stdout.split()[-1])


class Load:
    """What so many clients saw of a server, in one or several runs."""

    def __init__(self) -> None:
        self._runs: list[tuple[list[Seen], float]] = []

    @contextmanager
    def timed(self) -> Iterator[list[Seen]]:
        """A run: fill the list within."""
        seen: list[Seen] = []
        began = time.perf_counter()
        yield seen
        self._runs.append((seen, time.perf_counter() - began))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Throughput of the runs, and both latencies of all requests."""
        seen = list(itertools.chain.from_iterable(run for run, _ in self._runs))
        errors = [one.error for one in seen if one.error]
        if errors:
            raise RuntimeError(f"{len(errors)} requests failed, the first with: {errors[0]}")
        first = [one.first_token_s for one in seen if one.first_token_s is not None]
        gaps = list(itertools.chain.from_iterable(one.gaps_s for one in seen))
        tokens = [sum(one.num_tokens for one in run) / took for run, took in self._runs]
        requests = [len(run) / took for run, took in self._runs]
        return {
            "throughput": _rates(tokens, "tok/s"),
            "requests": _rates(requests, "req/s"),
            "time to first token": _latency(first),
            "between tokens": _latency(gaps),
        }


def _rates(samples: list[float], unit: str) -> dict[str, Any]:
    median = statistics.median(samples)
    return {"median": median, "best": max(samples), "unit": unit, "samples": samples}


def _latency(samples: list[float]) -> dict[str, Any]:
    """The median, and the 99th percentile in the place of the best."""
    ordered = sorted(samples) or [float("nan")]
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return {"median": statistics.median(ordered), "best": p99, "unit": "s, p50 and p99"}


def stress(model: Path, seconds: float, *, device: str) -> dict[str, Any]:
    """Random traffic for a while; then every answer is compared with the one without company."""
    from llama_cu import LLM

    rng = random.Random(2)
    with server(llama_cu_command(model, device)) as (url, name, process):
        ends = time.monotonic() + seconds

        def requests() -> Iterator[Request]:
            while time.monotonic() < ends:
                yield draw_request(rng, max_tokens=60, leaving=LEAVING)

        sizes = [resident_bytes(process.pid)]
        load = Load()
        with load.timed() as seen:
            seen += asyncio.run(run_clients(url, name, requests(), num_clients=STRESS_CLIENTS))
        sizes.append(resident_bytes(process.pid))
        metrics = httpx.get(f"{url}/metrics").text
    llm = LLM(model, device=device)
    wrong = [one for one in seen if not is_right(llm, one)]
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    return {
        "model": model.resolve().name,
        "results": {kind: {"llama-cu": row} for kind, row in load.summary().items()},
        "findings": {
            "requests": len(seen),
            "left early": sum(one.left for one in seen),
            "wrong answers": len(wrong),
            "running afterwards": float(values["llama_cu_requests_running"]),
            "KV cache in use afterwards": float(values["llama_cu_kv_cache_use"]),
            "resident MB before and after": [size >> 20 for size in sizes],
        },
    }


def is_right(llm: Any, one: Seen) -> bool:
    fields = dict(one.request.fields)
    alone = llm.generate(fields.pop("prompt"), replace(llm.default_params(), **fields))[0]
    if one.left:
        return bool(alone.text.startswith(one.text))
    return (one.text, one.finish_reason) == (alone.text, alone.finish_reason)


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/statm")
    if not status.exists():
        return 0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main_thread_cpu_s(pid: int) -> float:
    """Processor seconds of a server's event loop: HTTP, JSON, queues; 0 where nothing tells.

    Our engine computes on threads of its own.
    """
    stat = Path(f"/proc/{pid}/task/{pid}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def llama_cu_command(model: Path, device: str) -> list[str]:
    return [
        sys.executable, "-m", "llama_cu", "serve", "--model", str(model), "--device", device,
        "--served-model-name", "model", "--max-streams", "1000",
    ]  # fmt: skip


def llama_cpp_command(gguf: Path) -> list[str]:
    threads = str(os.cpu_count())
    return [
        sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", "2048",
        "--n_threads", threads, "--n_threads_batch", threads, "--model_alias", "model",
        "--interrupt_requests", "false",  # or a new request ends the running one
    ]  # fmt: skip


@contextmanager
def server(command: list[str]) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """A running server: its address, its model's name, its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + _START_S
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield url, "model", process
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models").status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
