"""The engines under measurement, each in a process of its own that answers one line per request.

A request is {"prompts": [[ids]], "num_tokens": n}: generate n tokens greedily after each prompt,
EOS or not. The answer has first_token_s, total_s and token_ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llama_cu.output import Output

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ROOT = Path(__file__).resolve().parents[1]


class Engine(Protocol):
    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]: ...


class LlamaCu:
    def __init__(self, model: str, *, device: str) -> None:
        from llama_cu.llm import LLM
        from llama_cu.sampling_params import SamplingParams

        self.llm = LLM(model, device=device)
        self.params = SamplingParams
        self.note = f"{self.llm.device_name}, {self.llm.dtype}"

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        params = self.params(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        return answer_of(self.llm.generate(prompts, params))


def answer_of(outputs: Sequence[Output]) -> dict[str, Any]:
    """A worker's answer from those of llama-cu."""
    return {
        "first_token_s": max(out.timings.time_to_first_token_s for out in outputs),
        "total_s": max(out.timings.total_s for out in outputs),
        "token_ids": [out.token_ids for out in outputs],
    }


class BareNumpy:
    note = "float32"

    def __init__(self, model: str, *, max_len: int) -> None:
        from benchmarks.bare_numpy import BareLlama

        self.model = BareLlama(Path(model), max_len=max_len)

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        (prompt,) = prompts
        started = time.perf_counter()
        token_ids = [self.model.next_token(prompt, 0)]
        first_s = time.perf_counter() - started
        for position in range(len(prompt), len(prompt) + num_tokens - 1):
            token_ids.append(self.model.next_token(token_ids[-1:], position))
        return timed(first_s, time.perf_counter() - started, token_ids)


class Transformers:
    note = "float32"

    def __init__(self, model: str, *, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        token_ids = self.torch.tensor(prompts)
        clock = Clock()
        started = time.perf_counter()
        with self.torch.inference_mode():
            found = self.model.generate(
                token_ids,
                attention_mask=self.torch.ones_like(token_ids),
                do_sample=False,
                max_new_tokens=num_tokens,
                streamer=clock,
            )
        answer = found[0, token_ids.shape[1] :].tolist()
        return timed(clock.times[1] - started, clock.times[-1] - started, answer)


class Clock:
    """A transformers streamer: called with the prompt, then after each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class LlamaCpp:
    def __init__(self, gguf: str, *, threads: int, max_len: int, n_gpu_layers: int = 0) -> None:
        from llama_cpp import Llama

        self.llama = Llama(
            gguf,
            n_ctx=max_len,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=n_gpu_layers,
            verbose=False,
        )
        self.note = Path(gguf).stem.rpartition(".")[2]

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        (prompt,) = prompts
        self.llama.reset()
        started = time.perf_counter()
        tokens = self.llama.generate(prompt, temp=0.0, repeat_penalty=1.0)
        token_ids = [next(tokens)]
        first_s = time.perf_counter() - started
        token_ids += [next(tokens) for _ in range(num_tokens - 1)]
        return timed(first_s, time.perf_counter() - started, token_ids)


def timed(first_token_s: float, total_s: float, token_ids: list[int]) -> dict[str, Any]:
    return {"first_token_s": first_token_s, "total_s": total_s, "token_ids": [token_ids]}


def open_engine(name: str, model: str, *, threads: int, max_len: int) -> Any:
    """The engine of this name; `model` is a folder, for llama.cpp a GGUF file."""
    if name == "numpy":
        return LlamaCu(model, device="cpu")
    if name == "bare NumPy":
        return BareNumpy(model, max_len=max_len)
    if name == "transformers":
        return Transformers(model, threads=threads)
    if name == "llama.cpp":
        return LlamaCpp(model, threads=threads, max_len=max_len)
    from benchmarks.gpu_engines import open_gpu_engine

    return open_gpu_engine(name, Path(model), threads=threads, max_len=max_len)


class Worker:
    """A process that runs one engine. Raises RuntimeError with the reason where it cannot."""

    def __init__(self, name: str, model: Path, *, threads: int, max_len: int = 1024) -> None:
        counts = dict.fromkeys(_THREAD_VARIABLES, str(threads))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.workers",
                name,
                str(model.resolve()),
                str(threads),
                str(max_len),
            ],
            cwd=_ROOT,
            env={**os.environ, **counts, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.note: str = self._answer()["note"]

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(
            json.dumps({"prompts": prompts, "num_tokens": num_tokens}),
            file=self._process.stdin,
            flush=True,
        )
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"its process ended with exit code {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_workers(
    stack: ExitStack, models: Mapping[str, Path], *, threads: int
) -> tuple[dict[str, Worker], dict[str, str]]:
    """The engines that run here, closed with the stack, and why the others do not.

    `models` is what each engine shall open. Raises RuntimeError where none runs.
    """
    workers: dict[str, Worker] = {}
    could_not_run: dict[str, str] = {}
    for name, model in models.items():
        try:
            workers[name] = stack.enter_context(Worker(name, model, threads=threads))
        except RuntimeError as reason:
            could_not_run[name] = str(reason)
    if not workers:
        raise RuntimeError(f"nothing runs here: {could_not_run}")
    return workers, could_not_run


def vocab_size_of(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def main() -> None:
    name, model, threads, max_len = sys.argv[1:]
    # Libraries may print: the answers get a stream of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from llama_cu.errors import LlamaCuError

    try:
        engine = open_engine(name, model, threads=int(threads), max_len=int(max_len))
    except ImportError as error:
        print(json.dumps({"error": f"not installed: {error}"}), file=answers, flush=True)
        return
    except (LlamaCuError, OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"note": engine.note}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.generate(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
