"""The measurements themselves: engines take turns, so that a busy minute disturbs all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from benchmarks.report import rates

PREFILL_TOKENS = 512
PROMPT_TOKENS = 16
DECODE_TOKENS = 128
BATCH_SIZE = 8


class Generator(Protocol):
    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Round:
    """Tokens and seconds of each measurement, and the answer to the decode's prompt."""

    timed: dict[str, tuple[int, float]]
    answer: list[int]


def measure(
    engines: Mapping[str, Generator],
    *,
    vocab_size: int,
    repeats: int,
    batched: Sequence[str] = (),
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """tok/s of prefill and decode of every engine, and of decode in batches of those `batched`.

    Each round gives all engines the same random prompt, another than the round before, so that
    nothing of it is cached; a first round is not counted. `agreeing_tokens` counts how far each
    engine's first answer goes along with that of the engine named first. `sizes` are those of
    `play_round`.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in engines}
    for number in range(repeats + 1):
        for name, engine in engines.items():
            rounds[name].append(
                play_round(
                    engine,
                    number,
                    vocab_size=vocab_size,
                    batch_size=BATCH_SIZE if name in batched else 0,
                    **sizes,
                )
            )
    return summarise(rounds)


def summarise(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """The rates of each engine's rounds but the first, and how far their answers agree."""
    results: dict[str, dict[str, Any]] = {}
    for name, own in rounds.items():
        for kind in own[0].timed:
            counts, seconds = zip(*(found.timed[kind] for found in own[1:]), strict=True)
            results.setdefault(kind, {})[name] = rates(counts, seconds)
    first = next(iter(rounds.values()))[0].answer
    agreeing = {name: _common_length(first, own[0].answer) for name, own in rounds.items()}
    return {"results": results, "agreeing_tokens": agreeing}


def play_round(
    engine: Generator,
    number: int,
    *,
    vocab_size: int,
    batch_size: int = 0,
    prefill_tokens: int = PREFILL_TOKENS,
    prompt_tokens: int = PROMPT_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
) -> Round:
    """One engine's round; the number decides its prompts. batch_size 0: no batch."""
    draw = random.Random(number)

    def prompt(length: int) -> list[int]:
        return [draw.randrange(vocab_size) for _ in range(length)]

    prefill = engine.generate([prompt(prefill_tokens)], 1)
    decode = engine.generate([prompt(prompt_tokens)], decode_tokens + 1)
    timed = {
        f"prefill {prefill_tokens}": (prefill_tokens, prefill["first_token_s"]),
        f"decode {decode_tokens}": (decode_tokens, _after_first(decode)),
    }
    if batch_size:
        prompts = [prompt(prompt_tokens) for _ in range(batch_size)]
        batch = engine.generate(prompts, decode_tokens + 1)
        kind = f"decode {decode_tokens} x {batch_size}"
        timed[kind] = (batch_size * decode_tokens, _after_first(batch))
    return Round(timed, decode["token_ids"][0])


def _after_first(answer: Mapping[str, Any]) -> float:
    return float(answer["total_s"] - answer["first_token_s"])


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
