"""Log probabilities of tokens: those of a prompt, those of a draw and its rivals."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from llama_cu.model import Llama
from llama_cu.scheduler import Slice
from llama_cu.sequence import Logprob

Array = Any

# Logits of given tokens that are on the device at a time: a quarter of a gigabyte.
_MAX_LOGITS = 1 << 26


class Scorer:
    """Scores tokens by the logits before them. All are natural logarithms of the softmax."""

    def __init__(self, model: Llama) -> None:
        self._model = model
        self.max_rows = max(1, _MAX_LOGITS // model.config.vocab_size)
        """Rows of logits that may be on the device at a time."""

    def entries(
        self, logits: Array, token_ids: Array, counts: list[int]
    ) -> list[dict[int, Logprob]]:
        """For each row its `counts` most likely tokens, and the given one.

        `logits` [num_rows, vocab_size] and `token_ids` [num_rows] are on the device.
        """
        ops = self._model.ops
        found = ops.logprobs(logits, token_ids, min(max(counts), self._model.config.vocab_size))
        chosen, top_ids, top_logprobs = (ops.download(array).tolist() for array in found)
        given = ops.download(token_ids).tolist()
        entries = []
        for row, count in enumerate(counts):
            ranked = list(zip(top_ids[row], top_logprobs[row], strict=True))[:count]
            entry = {token: Logprob(value, rank) for rank, (token, value) in enumerate(ranked, 1)}
            entry.setdefault(given[row], Logprob(chosen[row], None))
            entries.append(entry)
        return entries

    def record_prompts(self, hidden: Array, slices: list[Slice]) -> None:
        """Where prompt logprobs are wanted, add those of the tokens that follow the slices' own.

        `hidden` [num_tokens, hidden_size] are the slices' rows, one slice after the other.
        """
        ops = self._model.ops
        start = 0
        for piece in slices:
            sequence, first = piece.sequence, piece.sequence.num_computed
            rows_at = start - first  # the row of position 0
            start += piece.num_tokens
            last = min(first + piece.num_tokens, sequence.prompt_len - 1)
            # A sequence that gave way and is computed again may know some already.
            while sequence.lacks_prompt_logprobs and len(sequence.prompt_logprobs) < last:
                begin = len(sequence.prompt_logprobs)
                end = min(last, begin + self.max_rows)
                following = ops.upload(np.array(sequence.token_ids[begin + 1 : end + 1], np.int32))
                logits = self._logits(hidden, rows_at + begin, end - begin)
                counts = [sequence.params.prompt_logprobs or 0] * (end - begin)
                sequence.prompt_logprobs += self.entries(logits, following, counts)

    def logprobs(self, hidden: Array, first_row: int, following: Seq[int]) -> np.ndarray:
        """float32 [len(following)]: of tokens that follow as many rows of `hidden`."""
        ops = self._model.ops
        token_ids = ops.upload(np.array(following, np.int32))
        of_token, *_ = ops.logprobs(self._logits(hidden, first_row, len(following)), token_ids, 0)
        scores: np.ndarray = ops.download(of_token)
        return scores

    def _logits(self, hidden: Array, first_row: int, num_rows: int) -> Array:
        rows = np.arange(first_row, first_row + num_rows, dtype=np.int32)
        return self._model.logits(hidden, self._model.ops.upload(rows))
