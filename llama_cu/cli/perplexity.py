"""llama-cu perplexity: how well a model predicts the text of a file."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

from llama_cu.cli.load import load_model
from llama_cu.cli.progress import ProgressBar
from llama_cu.find_model import find_model
from llama_cu.folders import user_path
from llama_cu.perplexity import perplexity


def read_text(name: str) -> str:
    """The text of a file, or of stdin for -. Raises OSError or ValueError that names it."""
    if name == "-":
        if sys.stdin is None:
            raise ValueError("--text - reads stdin, which is closed")
        data, name = sys.stdin.buffer.read(), "stdin"
    else:
        try:
            data = user_path(name).read_bytes()
        except OSError as error:
            raise OSError(f"{name}: cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected UTF-8, found other bytes at {error.start}") from error


def show_perplexity(
    model: str,
    text: str,
    *,
    context: int | None,
    stride: int | None,
    load: dict[str, Any],
    as_json: bool,
) -> None:
    """Print perplexity, bits per byte, and what they were taken of. `load` is for `load_model`."""
    llm = load_model(model, **load)
    with ProgressBar() as bar:
        found = perplexity(
            llm, text, context=context, stride=stride, progress=partial(bar, "scoring")
        )
    facts: dict[str, Any] = {
        "perplexity": round(found.perplexity, 4),
        "bits_per_byte": round(found.bits_per_byte, 5),
        "tokens": found.num_tokens,
        "bytes": found.num_bytes,
        "model": str(find_model(model)),
        "device": llm.device_name,
        "dtype": llm.dtype,
    }
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):14} {value}")
