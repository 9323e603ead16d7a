"""llama-cu info: every probe of the machine, each with its own answer or its own failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial

from llama_cu import __version__
from llama_cu.cli import machine
from llama_cu.cli.chat_input import history_file
from llama_cu.cli.load import EMBEDDED, find_model


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
    facts = {name: ask(probe) for name, probe in _PROBES.items()}
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
