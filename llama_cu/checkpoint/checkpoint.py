"""A checkpoint folder as a whole: what is in it, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_cu.checkpoint.config import ModelConfig, load_config
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import ModelError


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder; its weights come by `load_weights(folder, config, ...)`."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer | None  # None where there is no tokenizer.json


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder of Hugging Face layout. ModelError names what is wrong with it."""
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"{folder}: expected a folder with config.json, found none")
    config = load_config(folder)
    tokenizer = Tokenizer(folder) if (folder / "tokenizer.json").exists() else None
    return Checkpoint(folder, config, tokenizer)
