"""The engines that are compared on a GPU, for a folder with weights or with a config.json alone.

Where there are no weights, each makes random ones on the device: nothing is downloaded or written.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.workers import Clock, LlamaCpp, LlamaCu, answer_of, timed
from llama_cu.bench.engines import BLOCK_SIZE, make_engine, random_weights
from llama_cu.checkpoint.config import load_config
from llama_cu.checkpoint.tensor_set import has_tensors
from llama_cu.loading import prepare_kernels
from llama_cu.ops.backend import get_ops
from llama_cu.output import output_of
from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.stopping import StopStrings


class RandomLlamaCu:
    """The engine as `llama-cu bench --random` makes it."""

    def __init__(self, model: Path, *, max_len: int, device: str) -> None:
        config = load_config(model)
        ops, _ = get_ops(device, "auto", checkpoint_dtype=config.dtype)
        prepare_kernels(config, ops)
        num_blocks = -(-max_len // BLOCK_SIZE)
        weights = random_weights(ops, config)
        self.engine = make_engine(ops, config, weights, num_blocks=num_blocks, max_num_seqs=1)
        self.note = f"{ops.device_name}, {ops.dtype.name}, random weights"

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        (prompt,) = prompts
        sequence = Sequence(
            token_ids=list(prompt),
            prompt_len=len(prompt),
            params=SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True),
            seed=0,
            eos_token_ids=frozenset(),
            max_len=self.engine.model.max_model_len,
            decoder=None,
            stops=StopStrings(()),
        )
        self.engine.submit(sequence)
        while not sequence.finished:
            self.engine.step()
        return answer_of([output_of(sequence)])


class TransformersGpu:
    """`model.generate`: eager, or with a static cache and forward compiled ("reduce-overhead")."""

    def __init__(self, model: Path, *, compiled: bool) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, CompileConfig

        _need_gpu(torch)
        config = AutoConfig.from_pretrained(model)
        dtype = getattr(torch, load_config(model).dtype)
        with torch.device("cuda"):
            if has_tensors(model):
                self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
            else:
                self.model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        self.model = self.model.to("cuda").eval()
        self.model.generation_config.eos_token_id = None
        self.torch = torch
        self.options: dict[str, Any] = {"disable_compile": True}
        if compiled:
            compile_config = CompileConfig(mode="reduce-overhead")
            self.options = {"cache_implementation": "static", "compile_config": compile_config}
        self.note = f"{dtype}, {'static cache, compiled' if compiled else 'eager'}"

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        token_ids = self.torch.tensor(prompts, device="cuda")
        clock = Clock()
        started = time.perf_counter()
        with self.torch.inference_mode():
            found = self.model.generate(
                token_ids,
                attention_mask=self.torch.ones_like(token_ids),
                do_sample=False,
                max_new_tokens=num_tokens,
                streamer=clock,
                **self.options,
            )
        answer = found[0, token_ids.shape[1] :].tolist()
        return timed(clock.times[1] - started, clock.times[-1] - started, answer)


class TorchGraph:
    """Plain torch: SDPA, a static cache, a CUDA graph for each token (`torch_graph.py`)."""

    def __init__(self, model: Path, *, max_len: int) -> None:
        import torch

        from benchmarks.torch_graph import TorchLlama

        _need_gpu(torch)
        self.llama = TorchLlama(model, max_len=max_len)
        self.note = self.llama.dtype_name

    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        (prompt,) = prompts
        started = time.perf_counter()
        first = self.llama.start(prompt)
        first_s = time.perf_counter() - started
        token_ids = [first, *self.llama.go_on(num_tokens - 1)]
        return timed(first_s, time.perf_counter() - started, token_ids)


class LlamaCppGpu(LlamaCpp):
    """llama.cpp with all layers on the GPU."""

    def __init__(self, gguf: str, *, threads: int, max_len: int) -> None:
        import llama_cpp

        if not llama_cpp.llama_supports_gpu_offload():
            raise ValueError("llama-cpp-python was built without a GPU")
        super().__init__(gguf, threads=threads, max_len=max_len, n_gpu_layers=-1)


def open_gpu_engine(name: str, model: Path, *, threads: int, max_len: int) -> Any:
    """The engine of this name. Raises ValueError or ImportError where it cannot run here."""
    if name == "cuda":
        if has_tensors(model):
            return LlamaCu(str(model), device="cuda")
        return RandomLlamaCu(model, max_len=max_len, device="cuda")
    if name in ("transformers eager", "transformers compiled"):
        return TransformersGpu(model, compiled=name.endswith("compiled"))
    if name == "torch graph":
        return TorchGraph(model, max_len=max_len)
    if name == "llama.cpp GPU":
        return LlamaCppGpu(str(model), threads=threads, max_len=max_len)
    raise ValueError(f"no engine is called {name!r}")


def _need_gpu(torch: Any) -> None:
    if not torch.cuda.is_available():
        raise ValueError("torch finds no GPU")
