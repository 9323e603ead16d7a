"""The measurements themselves: engines take turns, so that a busy minute disturbs all of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from benchmarks.report import rates

PREFILL_TOKENS = 512
PROMPT_TOKENS = 16
DECODE_TOKENS = 128
BATCH_SIZE = 8


class Generator(Protocol):
    def generate(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]: ...


def measure(
    engines: Mapping[str, Generator],
    *,
    vocab_size: int,
    repeats: int,
    batched: Sequence[str] = (),
    decode_tokens: int = DECODE_TOKENS,
    prefill_tokens: int = PREFILL_TOKENS,
) -> dict[str, Any]:
    """tok/s of prefill and decode of every engine, and of decode in batches of those `batched`.

    Each round gives all engines the same random prompt, another than the round before, so that
    nothing of it is cached; a first round is not counted. `agreeing_tokens` counts how far each
    engine's first answer goes along with that of the engine named first.
    """
    rounds = [
        {
            name: _measure_one(
                engine,
                random.Random(number),
                vocab_size,
                prefill_tokens,
                decode_tokens,
                batch_size=BATCH_SIZE if name in batched else 0,
            )
            for name, engine in engines.items()
        }
        for number in range(repeats + 1)
    ]
    results: dict[str, dict[str, Any]] = {}
    for name in engines:
        for kind in rounds[0][name]["timed"]:
            counts, seconds = zip(*(r[name]["timed"][kind] for r in rounds[1:]), strict=True)
            results.setdefault(kind, {})[name] = rates(counts, seconds)
    answers = {name: rounds[0][name]["answer"] for name in engines}
    first = next(iter(answers.values()))
    agreeing = {name: _common_length(first, answer) for name, answer in answers.items()}
    return {"results": results, "agreeing_tokens": agreeing}


def _measure_one(
    engine: Generator,
    draw: random.Random,
    vocab_size: int,
    prefill_tokens: int,
    decode_tokens: int,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """{"timed": {measurement: (tokens, seconds)}, "answer": token ids}."""

    def prompt(length: int) -> list[int]:
        return [draw.randrange(vocab_size) for _ in range(length)]

    prefill = engine.generate([prompt(prefill_tokens)], 1)
    decode = engine.generate([prompt(PROMPT_TOKENS)], decode_tokens + 1)
    timed = {
        f"prefill {prefill_tokens}": (prefill_tokens, prefill["first_token_s"]),
        f"decode {decode_tokens}": (decode_tokens, _after_first(decode)),
    }
    if batch_size:
        prompts = [prompt(PROMPT_TOKENS) for _ in range(batch_size)]
        batch = engine.generate(prompts, decode_tokens + 1)
        kind = f"decode {decode_tokens} x {batch_size}"
        timed[kind] = (batch_size * decode_tokens, _after_first(batch))
    return {"timed": timed, "answer": decode["token_ids"][0]}


def _after_first(answer: Mapping[str, Any]) -> float:
    return float(answer["total_s"] - answer["first_token_s"])


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
