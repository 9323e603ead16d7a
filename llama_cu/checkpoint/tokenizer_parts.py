"""What a Tokenizer is made of, and how it is read from a folder in Hugging Face layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from llama_cu.checkpoint.fields import Fields, read_json_object
from llama_cu.errors import ModelError


@dataclass(frozen=True, eq=False)
class TokenizerParts:
    """`source` and the sources of `config` say in errors where a part came from.

    `decoder` is what tokenizer.json says of it. `config` has add_bos_token and chat_template, as
    tokenizer_config.json does; a file at `template_path` goes before its chat_template.
    """

    source: str
    library: tokenizers.Tokenizer
    decoder: dict[str, Any] | None
    config: Fields
    special_tokens: dict[str, str]  # names such as bos_token to their text
    template_path: Path | None = None


def read_tokenizer_parts(folder: Path) -> TokenizerParts:
    """The parts in tokenizer.json and the files beside it. ModelError for what is damaged."""
    source = str(folder / "tokenizer.json")
    config = _optional_object(folder / "tokenizer_config.json")
    library = _open_library_tokenizer(source)
    return TokenizerParts(
        source,
        library,
        read_json_object(Path(source)).get("decoder"),
        Fields(str(folder / "tokenizer_config.json"), config),
        _special_tokens(_optional_object(folder / "special_tokens_map.json"))
        | _special_tokens(config),
        folder / "chat_template.jinja",
    )


def _open_library_tokenizer(source: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(source)
    # The library raises bare Exceptions.
    except Exception as error:
        raise ModelError(f"{source}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _optional_object(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.exists() else {}


def _special_tokens(values: Mapping[str, Any]) -> dict[str, str]:
    """The entries such as bos_token, whose value is a text or an object with its content."""
    contents = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in values.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in contents.items() if isinstance(text, str)}
