"""What a caller may give as a prompt, checked and turned into token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llama_cu.checkpoint.tokenizer import Tokenizer

Prompt = str | Sequence[int] | np.ndarray
Message = Mapping[str, Any]


class PromptReader:
    """Encodes texts and conversations, and checks ids against the model's vocabulary."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def encode_all(self, prompts: Any) -> list[list[int]]:
        """Token ids of one prompt or of several."""
        if isinstance(prompts, str):
            return [self.encode(prompts)]
        if isinstance(prompts, np.ndarray):
            prompts = prompts.tolist()  # a plain number where it has no axis
        if not isinstance(prompts, list | tuple):
            raise ValueError(f"prompts must be a string or a list, got {prompts!r}")
        if len(prompts) and isinstance(prompts[0], int | np.integer):
            return [self.encode(prompts)]
        return [self.encode(prompt) for prompt in prompts]

    def encode(self, prompt: Any) -> list[int]:
        """The token ids of a text, or of ids after a check. ValueError for anything else."""
        if isinstance(prompt, list | tuple | np.ndarray):
            return self.check_ids(prompt)
        if not isinstance(prompt, str):
            raise ValueError(f"prompt must be a string or a list of token ids, got {prompt!r}")
        if self._tokenizer is None:
            raise ValueError("prompt must be a list of token ids: the model has no tokenizer.json")
        return self.check_ids(self._tokenizer.encode(prompt))

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, by the model's chat template."""
        if self._tokenizer is None:
            raise ValueError("messages need a tokenizer, but the model has no tokenizer.json")
        text = self._tokenizer.apply_chat_template(messages)
        return self.check_ids(self._tokenizer.encode(text, add_special_tokens=False))

    def check_ids(self, token_ids: Any) -> list[int]:
        """The ids as a list of Python's integers, each of them in the vocabulary."""
        try:
            ids = list(token_ids)
        except TypeError as error:  # a plain number, or an array without an axis
            raise ValueError(
                f"prompt must be a string or a list of token ids, got {token_ids!r}"
            ) from error
        if not ids:
            raise ValueError("prompt must hold at least one token, got none")
        for token_id in ids:
            if isinstance(token_id, bool) or not isinstance(token_id, int | np.integer):
                raise ValueError(
                    f"prompt must be a string or a list of token ids, got {token_id!r}"
                )
            if not 0 <= token_id < self._vocab_size:
                raise ValueError(f"token ids must be in [0, {self._vocab_size}), got {token_id}")
        return [int(token_id) for token_id in ids]
