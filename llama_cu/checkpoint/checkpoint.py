"""A checkpoint as a whole, a folder or a GGUF file: what is in it, before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_cu.checkpoint.config import ModelConfig, load_config
from llama_cu.checkpoint.gguf import GgufFile, is_gguf
from llama_cu.checkpoint.gguf_config import read_gguf_config
from llama_cu.checkpoint.gguf_tokenizer import read_gguf_tokenizer
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import ModelError


@dataclass(frozen=True)
class Checkpoint:
    """An opened folder or file; its weights come by `load_weights(path, config, ...)`."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer | None  # None where the checkpoint has none

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end an answer: as in vLLM the config's, and the tokenizer's own EOS too."""
        own = None if self.tokenizer is None else self.tokenizer.eos_token_id
        ids = {*self.config.eos_token_ids, *(() if own is None else (own,))}
        # A tokenizer may know more tokens than the model, which then never draws them.
        return frozenset(i for i in ids if i < self.config.vocab_size)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder of Hugging Face layout, or in a GGUF file.

    ModelError names what is wrong with it.
    """
    path = Path(path)
    if is_gguf(path):
        file = GgufFile(path)
        config, parts = read_gguf_config(file), read_gguf_tokenizer(file)
        return Checkpoint(path, config, None if parts is None else Tokenizer(parts))
    config = open_config(path)
    tokenizer = Tokenizer(path) if (path / "tokenizer.json").exists() else None
    return Checkpoint(path, config, tokenizer)


def open_config(path: str | Path) -> ModelConfig:
    """The ModelConfig of a checkpoint, without its tokenizer."""
    path = Path(path)
    if is_gguf(path):
        return read_gguf_config(GgufFile(path))
    if not path.is_dir():
        kind = "a file that is neither" if path.exists() else "none"
        raise ModelError(f"{path}: expected a folder with config.json or a GGUF file, found {kind}")
    return load_config(path)
