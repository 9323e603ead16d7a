"""From what a person calls a model to where it lies."""

from __future__ import annotations

from pathlib import Path

from llama_cu.errors import ModelError
from llama_cu.folders import user_path
from llama_cu.hub.names import parse_name
from llama_cu.hub.store import find_stored, stored_models

EMBEDDED = ("story", "chat")

_PACKAGE = Path(__file__).resolve().parent


def find_model(model: str) -> Path:
    """The folder or file of a model: of an embedded one, of what is at this path, of a pulled one.

    ModelError for a name of nothing that is here says what is.
    """
    if not model:
        raise ModelError("the model's name is empty: expected a folder, a .gguf file, or a name")
    path = user_path(model)
    if model in EMBEDDED and not path.is_dir():
        return _embedded(model)
    if path.exists() or _is_path(model):
        return path
    stored = find_stored(model)
    if stored is not None:
        return stored
    if parse_name(model) is not None:
        what = "there is no such folder, and no such model was pulled"
        raise ModelError(f"{model}: {what}; to fetch it: llama-cu pull {model}")
    here = ", ".join([*EMBEDDED, *(stored.name for stored in stored_models())])
    raise ModelError(
        f"{model}: expected a folder, a .gguf file, or a model's name; here are {here}; "
        "llama-cu models lists what can be fetched by name"
    )


def _is_path(model: str) -> bool:
    """Whether a text can only be a path, though there is nothing at it."""
    return model.startswith(("/", ".", "~")) or (
        parse_name(model) is None and ("/" in model or model.lower().endswith(".gguf"))
    )


def _embedded(model: str) -> Path:
    # A wheel carries the models inside the package; a checkout has them beside it.
    for folder in (_PACKAGE / "models" / model, _PACKAGE.parent / "models" / model):
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(f"the embedded model {model} is not part of this installation")
