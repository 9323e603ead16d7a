"""llama-cu info: probes of the machine, each with its answer or failure; or facts of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from llama_cu import __version__
from llama_cu.checkpoint.checkpoint import open_checkpoint
from llama_cu.checkpoint.rope import default_max_model_len
from llama_cu.checkpoint.tensor_set import stored_bytes
from llama_cu.checkpoint.weights import weight_bytes
from llama_cu.cli import machine
from llama_cu.cli.chat_input import history_file
from llama_cu.find_model import EMBEDDED, find_model


def _folder(name: str) -> str:
    return str(find_model(name))


_PROBES: dict[str, Callable[[], str | Iterable[str]]] = {
    "llama-cu": lambda: __version__,
    "system": machine.system,
    "numpy": machine.numpy,
    "driver": machine.driver,
    "gpu": machine.gpus,
    "cupy": machine.cupy,
    "nvrtc": machine.nvrtc,
    "cublas": machine.cublas,
    "device auto": machine.device,
    "dtypes": machine.dtypes,
    "kernel cache": machine.kernel_cache,
    "chat history": lambda: str(history_file()),
    **{f"model {name}": partial(_folder, name) for name in EMBEDDED},
}


def show_info(*, as_json: bool) -> None:
    """Print one line a fact, or JSON. A probe that fails says so in its own line."""
    _show({name: ask(probe) for name, probe in _PROBES.items()}, as_json=as_json)


def show_model(model: str, *, as_json: bool) -> None:
    """Print what a model is, without loading its weights. Raises ModelError as LLM does."""
    path = find_model(model)
    checkpoint, stored = open_checkpoint(path), stored_bytes(path)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    total = weight_bytes(config, np.dtype(np.uint8))
    sizes = ", ".join(f"{kind} {size / 2**20:.1f} MiB" for kind, size in stored.items())
    facts = {
        "model": str(path),
        "architecture": f"{config.model_type}, {total / 1e6:.1f} M parameters",
        "layers": f"{config.num_hidden_layers} of {config.hidden_size}",
        "heads": f"{config.num_attention_heads} of {config.head_dim}, "
        f"{config.num_key_value_heads} for keys and values",
        "stored as": sizes,
        "dtype auto": f"{config.dtype} on a GPU, float32 on a CPU",
        "context": f"{default_max_model_len(config)} tokens, RoPE {config.rope.rope_type}",
        "vocabulary": f"{config.vocab_size} tokens",
        "tokenizer": "none" if tokenizer is None else f"{tokenizer.vocab_size} tokens",
        "ends answers": ", ".join(map(str, config.eos_token_ids)) or "by length alone",
    }
    _show({name: [fact] for name, fact in facts.items()}, as_json=as_json)


def _show(facts: dict[str, list[str]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, lines in facts.items():
        for line in lines:
            print(f"{name:{width}}  {line}")


def ask(probe: Callable[[], str | Iterable[str]]) -> list[str]:
    """The probe's lines, or its failure as one line."""
    try:
        answer = probe()
        return [answer] if isinstance(answer, str) else list(answer)
    except Exception as error:  # whatever is broken here, the other probes must still answer
        return [" ".join(str(error).split()) or type(error).__name__]
