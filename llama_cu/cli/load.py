"""From command-line options to a loaded model and its sampling parameters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from llama_cu.cli.progress import ProgressBar
from llama_cu.cli.terminal import note
from llama_cu.find_model import find_model
from llama_cu.folders import user_path
from llama_cu.llm import LLM
from llama_cu.sampling_params import SamplingParams

_SHORT_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# For models that do not say how they want to be sampled.
_SENSIBLE = {"temperature": 0.8, "top_p": 0.95}


def model_name(model: str) -> str:
    """What a model is called: by its own name, its folder's, or its file's without .gguf."""
    path = user_path(model)
    if not path.exists():
        return model
    name = path.resolve().name
    return name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def long_dtype(dtype: str) -> str:
    """float16 from f16; other names stay as they are."""
    return _SHORT_DTYPES.get(dtype, dtype)


def load_model(model: str, *, device: str, dtype: str, **options: Any) -> LLM:
    """Load with a progress bar; what `auto` took, and why, goes to stderr.

    Options that are None are left to LLM's defaults.
    """
    with ProgressBar() as progress:
        llm = LLM(
            find_model(model),
            device=device,
            dtype=long_dtype(dtype),
            progress=progress,
            **{name: value for name, value in options.items() if value is not None},
        )
    if device == "auto":
        note(f"device: {llm.device_note}")
    return llm


def memory_size(option: str, text: str | None) -> int | None:
    """Bytes of "512M", "4G" or a plain number. Raises ValueError that names the option."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError(f"{option} must be a size such as 512M or 4G, got {text!r}")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, checked. Raises ValueError as SamplingParams does."""
    chosen = {name: value for name, value in options.items() if value is not None}
    SamplingParams(**chosen)
    return chosen


def sampling_params(llm: LLM, options: dict[str, Any]) -> SamplingParams:
    """The options over the model's own generation_config.json over sensible defaults."""
    stated = llm.config.generation
    silent = stated.temperature is None and stated.do_sample is None
    return replace(llm.default_params(), **{**(_SENSIBLE if silent else {}), **options})
