"""What OpenAI's API gives back: choices, usage, log probabilities, whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.sequence import Logprob, Sequence

Json = dict[str, Any]
Entry = tuple[int, dict[int, Logprob] | None]
"""A token id, and what was likely in its place: itself and its rivals."""


@dataclass(frozen=True)
class Delta:
    """What a sequence gained since the last look."""

    text: str
    logprobs: list[tuple[int, dict[int, Logprob]]]  # (token id, its position's entries)
    finish_reason: str | None

    def __bool__(self) -> bool:
        return bool(self.text or self.logprobs or self.finish_reason)


class Cursor:
    """Reads a sequence that the engine's thread is still writing."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self._num_chars = 0
        self._num_logprobs = 0
        self._ended = False

    def advance(self) -> Delta:
        sequence = self.sequence
        reason = sequence.finish_reason  # first: once it is set, the rest is final
        if reason == "error":  # it is told as an error, and not as the end of an answer
            reason = None
        text = sequence.text[self._num_chars :]
        ids = sequence.answer_ids
        ready = min(len(sequence.logprobs), len(ids))
        if reason == "stop" and ids and ids[-1] in _ending_ids(sequence):
            ready = min(ready, len(ids) - 1)  # the end token is no part of the text
        entries = [(ids[i], sequence.logprobs[i]) for i in range(self._num_logprobs, ready)]
        self._num_chars += len(text)
        self._num_logprobs = max(self._num_logprobs, ready)
        news = None if self._ended else reason
        self._ended = reason is not None
        return Delta(text, entries, news)


def _ending_ids(sequence: Sequence) -> set[int]:
    params = sequence.params
    ends = set() if params.ignore_eos else set(sequence.eos_token_ids)
    return ends | set(params.stop_token_ids)


def usage(sequences: list[Sequence], num_choices_per_prompt: int) -> Json:
    """Tokens of each prompt once, and of all answers."""
    firsts = sequences[::num_choices_per_prompt]
    prompt_tokens = sum(sequence.prompt_len for sequence in firsts)
    completion_tokens = sum(sequence.num_generated for sequence in sequences)
    cached = sum(sequence.num_cached_tokens or 0 for sequence in firsts)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(sequences: list[Sequence]) -> Json:
    """Names and units (milliseconds, tokens per second) of llama.cpp's server.

    Of several answers: their tokens together, from the first arrival to the last end.
    """
    began = min(s.arrival_s for s in sequences)
    firsts = [s.first_token_s for s in sequences if s.first_token_s is not None]
    first = min(firsts, default=began)
    ended = max((s.finish_s for s in sequences if s.finish_s is not None), default=first)
    cached = sum(s.num_cached_tokens or 0 for s in sequences)
    prompt_n = sum(s.prompt_len for s in sequences) - cached
    predicted_n = sum(s.num_generated for s in sequences)
    prompt_ms, predicted_ms = 1000 * (first - began), 1000 * (ended - first)
    return {
        "cache_n": cached,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(1, prompt_n),
        "prompt_per_second": 1000 * prompt_n / prompt_ms if prompt_ms > 0 else 0.0,
        "predicted_n": predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / max(1, predicted_n),
        "predicted_per_second": 1000 * predicted_n / predicted_ms if predicted_ms > 0 else 0.0,
    }


def finish_reason(reason: str | None) -> str | None:
    return "stop" if reason == "abort" else reason


def chat_logprobs(tokenizer: Tokenizer | None, delta: Delta, num_top: int) -> Json:
    """OpenAI's newer form: a list of tokens with their likeliest rivals."""
    content = []
    for token_id, entries in delta.logprobs:
        ranked = [i for i, entry in entries.items() if entry.rank is not None][:num_top]
        content.append(
            {
                **_token(tokenizer, token_id, entries[token_id].logprob),
                "top_logprobs": [_token(tokenizer, i, entries[i].logprob) for i in ranked],
            }
        )
    return {"content": content, "refusal": None}


def prompt_entries(sequence: Sequence) -> list[Entry]:
    """A prompt's tokens with their positions' entries; none for the first."""
    ids = sequence.token_ids[: sequence.prompt_len]
    return list(zip(ids, [None, *sequence.prompt_logprobs], strict=True))


def completion_logprobs(
    tokenizer: Tokenizer | None, positions: Iterable[Entry], num_top: int, offset: int
) -> tuple[Json, int]:
    """OpenAI's older form, four lists, and where the text goes on.

    `offset` is where the first token's text begins. A special token is no part of the text.
    """
    chosen: list[float | None] = []
    top: list[dict[str, float] | None] = []
    tokens, offsets = [], []
    for token_id, entries in positions:
        tokens.append(_token_text(tokenizer, token_id))
        offsets.append(offset)
        if tokenizer is None or not tokenizer.is_special(token_id):
            offset += len(tokens[-1])
        if entries is None:  # nothing comes before it
            chosen.append(None)
            top.append(None)
            continue
        chosen.append(entries[token_id].logprob)
        top.append(
            {
                _token_text(tokenizer, i): entry.logprob
                for i, entry in entries.items()
                if i == token_id or (entry.rank is not None and entry.rank <= num_top)
            }
        )
    lists = {
        "tokens": tokens,
        "token_logprobs": chosen,
        "top_logprobs": top if num_top else None,
        "text_offset": offsets,
    }
    return lists, offset


def _token(tokenizer: Tokenizer | None, token_id: int, logprob: float) -> Json:
    piece = b"" if tokenizer is None else tokenizer.piece(token_id)
    return {
        "token": _token_text(tokenizer, token_id),
        "logprob": max(logprob, -9999.0),
        "bytes": list(piece),
    }


def _token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    if tokenizer is None:
        return f"token_id:{token_id}"
    return tokenizer.piece(token_id).decode("utf-8", errors="replace")
