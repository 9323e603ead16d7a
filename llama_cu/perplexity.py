"""How well a model predicts a text of any length, in windows of its context."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llama_cu.arguments import check_integer
from llama_cu.errors import RequestError
from llama_cu.llm import LLM

# Longer windows cost more than they tell.
_LONGEST_DEFAULT = 2048


@dataclass(frozen=True)
class Perplexity:
    """The sum of a text's log probabilities, and of how many tokens and bytes it is."""

    num_tokens: int
    num_bytes: int  # of UTF-8
    nats: float  # minus the sum of the natural logarithms

    @property
    def perplexity(self) -> float:
        """exp of the mean over tokens; models of different tokenizers cannot be compared by it."""
        mean = self.nats / self.num_tokens
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes


def perplexity(
    llm: LLM,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Score every token of a text once, in windows that begin `stride` tokens apart.

    A window holds `context` tokens (by default the model's, at most 2048), and of all but the first
    window only the tokens count that no window before had; the others are what comes before them.
    By default the stride is half a window. This is the sliding window of transformers'
    documentation; and where the tokenizer puts BOS before a text, each window begins with it. Where
    it does not, the first token of the text is not scored, nor are its bytes counted.

    `progress` gets tokens done and tokens in all. Raises ValueError for windows that the model or
    its KV cache does not hold, RequestError for a text without a token to score.
    """
    longest = llm.context_len
    context = min(longest, _LONGEST_DEFAULT) if context is None else context
    check_integer("context", context, 2, longest)
    stride = max(context // 2, 1) if stride is None else stride
    check_integer("stride", stride, 1, context - 1)
    if llm.tokenizer is None:
        raise ValueError("a text needs a tokenizer, but the model has none")
    token_ids = llm.encode(text) if text else []
    head = token_ids[:1] if token_ids[:1] == [llm.tokenizer.bos_token_id] else []
    body = token_ids[len(head) :]
    unscored = 0 if head else 1
    if len(body) <= unscored:
        raise RequestError(f"the text has no token to score: {text!r:.60}")
    nats = 0.0
    for window, first in windows(len(body), context - len(head), stride):
        ids = head + body[window.start : window.stop]
        scored_from = len(head) + max(first - window.start, unscored)
        nats -= float(llm.logprobs(ids, first=scored_from).sum(dtype="float64"))
        if progress is not None:
            progress(window.stop, len(body))
    num_bytes = len(text.encode())
    if unscored:
        num_bytes -= len(llm.tokenizer.first_piece(body[0]))
    return Perplexity(len(body) - unscored, num_bytes, nats)


def windows(num_tokens: int, size: int, stride: int) -> Iterator[tuple[range, int]]:
    """(tokens of a window, the first of them that no window before had), until all were had."""
    done = 0
    for start in range(0, num_tokens, stride):
        stop = min(start + size, num_tokens)
        yield range(start, stop), done
        done = stop
        if stop == num_tokens:
            return
