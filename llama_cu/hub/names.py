"""What models are called: aliases, ids of Hugging Face's hub, and the files of a repository."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llama_cu.errors import ModelError

ALIASES = {
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m-instruct": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b-instruct": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "tinyllama-1.1b-chat": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.3",
    "qwen2.5-0.5b-instruct": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5-1.5b-instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
}

# All that a folder is read for beside its weights.
CONFIG_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_PART = r"[A-Za-z0-9](?:[\w.-]*\w)?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/([\w./-]+\.gguf))?(?:@([\w./-]+))?")


@dataclass(frozen=True)
class HubName:
    """A repository, one of its GGUF files or its folder, at a branch, tag or commit."""

    repo: str
    file: str | None = None
    revision: str = "main"

    def __str__(self) -> str:
        path = self.repo if self.file is None else f"{self.repo}/{self.file}"
        return path if self.revision == "main" else f"{path}@{self.revision}"


def parse_name(name: str) -> HubName | None:
    """An alias, `org/name`, `org/name/file.gguf`, each with `@revision` or not; None for others."""
    alias, at, revision = name.partition("@")
    match = _NAME.fullmatch(ALIASES.get(alias.lower(), alias) + at + revision)
    if match is None or ".." in name:
        return None
    return HubName(match[1], match[2], match[3] or "main")


def hub_name(name: str) -> HubName:
    """The same; ModelError where a name is none."""
    found = parse_name(name)
    if found is None:
        raise ModelError(
            f"{name}: expected org/name, org/name/file.gguf or an alias (llama-cu models has them)"
        )
    return found
