"""Llama-family inference with hand-written CUDA kernels and a NumPy backend.

Names load when they are first used, so that the command line starts without NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_cu.errors import BackendUnavailable, LlamaCuError, ModelError, RequestError

if TYPE_CHECKING:
    from llama_cu.llm import LLM as LLM
    from llama_cu.output import Output as Output
    from llama_cu.output import TextStream as TextStream
    from llama_cu.sampling_params import SamplingParams as SamplingParams

__version__ = "0.1.0"

_LATE = {
    "LLM": "llama_cu.llm",
    "Output": "llama_cu.output",
    "SamplingParams": "llama_cu.sampling_params",
    "TextStream": "llama_cu.output",
}

__all__ = [
    "LLM",
    "BackendUnavailable",
    "LlamaCuError",
    "ModelError",
    "Output",
    "RequestError",
    "SamplingParams",
    "TextStream",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
