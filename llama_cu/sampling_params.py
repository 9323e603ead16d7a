"""How one request wants its tokens drawn, and when it wants them to end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from llama_cu.arguments import check_integer, check_number

MAX_LOGPROBS = 64
MAX_SEED = 2**64 - 1

# Below this, logits over temperature could leave float32; the draw is greedy by then anyway.
_GREEDY_BELOW = 1e-5
# Beyond these a logit could leave float32.
_LEAST_PENALTY, _MOST_BIAS = 0.01, 1e6
_WHOLE = ("top_k", "max_tokens", "min_tokens", "seed", "n", "logprobs", "prompt_logprobs")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Names and meanings follow vLLM. Wrong values are a ValueError with name, rule and value.

    temperature 0 (below 1e-5, as in vLLM) is greedy. top_k 0 (or -1), top_p 1 and min_p 0 keep
    every token; they apply in this order, after the penalties and the temperature.
    repetition_penalty looks at prompt and answer, presence and frequency at the answer alone.
    max_tokens None means until the context is full. The answer ends at an EOS token (unless
    ignore_eos), a stop token, or a stop string, which is cut off; none of them before min_tokens.
    logprobs n returns the n most likely tokens of each position and the chosen one;
    prompt_logprobs n does the same for the prompt, whose prefix is then not taken from the cache.
    Without a seed, one is drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_tokens: int | None = 256
    min_tokens: int = 0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, 100)
        check_integer("top_k", self.top_k, -1)
        check_number("top_p", self.top_p, 0, 1, open_low=True)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, _LEAST_PENALTY, 100)
        check_number("presence_penalty", self.presence_penalty, -100, 100)
        check_number("frequency_penalty", self.frequency_penalty, -100, 100)
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1)
        check_integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}"
            )
        check_integer("n", self.n, 1)
        if self.seed is not None:
            check_integer("seed", self.seed, 0, MAX_SEED)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        for name in _WHOLE:  # a small integer of NumPy's would overflow where it is added to
            if getattr(self, name) is not None:
                object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "stop", _stop_strings(self.stop))
        object.__setattr__(self, "stop_token_ids", _token_ids(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one."""
        return self.temperature < _GREEDY_BELOW

    @property
    def edits_logits(self) -> bool:
        """Whether some logit changes before the draw."""
        return bool(
            self.logit_bias
            or self.min_tokens
            or self.repetition_penalty != 1
            or self.presence_penalty
            or self.frequency_penalty
        )

    @property
    def counts_tokens(self) -> bool:
        """Whether the draw depends on the tokens so far."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


def _stop_strings(stop: Any) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else [] if stop is None else stop
    fits = isinstance(strings, Sequence | Set)
    if not fits or not all(isinstance(string, str) and string for string in strings):
        raise ValueError(f"stop must be a non-empty string or a list of them, got {stop!r}")
    return tuple(strings)


def _token_ids(token_ids: Any) -> tuple[int, ...]:
    listed = () if token_ids is None else token_ids
    try:
        ids = None if isinstance(listed, str | Mapping) else tuple(listed)
    except TypeError:  # NumPy's arrays without an axis are Iterable, and are not
        ids = None
    if ids is None:
        raise ValueError(f"stop_token_ids must be a list of token ids, got {token_ids!r}")
    for token_id in ids:
        check_integer("stop_token_ids", token_id, 0)
    return tuple(int(token_id) for token_id in ids)


def _biases(logit_bias: Any) -> dict[int, float]:
    if logit_bias is not None and not isinstance(logit_bias, Mapping):
        raise ValueError(f"logit_bias must map token ids to numbers, got {logit_bias!r}")
    biases = {}
    for token_id, bias in (logit_bias or {}).items():
        check_integer("logit_bias token id", token_id, 0)
        if bias != -math.inf:  # which bans the token
            check_number(f"logit_bias[{token_id}]", bias, -_MOST_BIAS, _MOST_BIAS)
        biases[int(token_id)] = float(bias)
    return biases
