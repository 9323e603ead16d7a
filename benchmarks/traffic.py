"""Clients of the server that ask at random and sometimes leave, and what they saw.

Requests are drawn from a seed, so that the same answers can be asked for again, alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

_OPENINGS = (
    "Once upon a time",
    "One day, a little girl named",
    "The old clock in the hall",
    "Tom and Mia were",
    "In the deep forest",
    "A dragon who could not",
)
_WORDS = (
    "red", "ball", "garden", "rain", "moon", "cake", "robot", "river", "happy", "lost", "friend",
)  # fmt: skip
_STOPS = (" the", ".", "\n\n", "said", ", and", "he was", "!")
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Request:
    """Fields of a completion, and after how many chunks the client leaves, if it does."""

    fields: dict[str, Any]
    leaves_after: int | None


@dataclass
class Seen:
    """What one client saw of one request. Times are seconds since it was sent."""

    request: Request
    text: str = ""
    finish_reason: str | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: str | None = None

    @property
    def left(self) -> bool:
        return self.finish_reason is None and self.error is None


def draw_request(rng: random.Random, *, max_tokens: int, leaving: float) -> Request:
    """A prompt with settings and stop strings at random; some clients leave in the middle."""
    prompt = " ".join([rng.choice(_OPENINGS), *rng.choices(_WORDS, k=rng.randrange(12))])
    fields: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": rng.randint(1, max_tokens),
        "seed": rng.getrandbits(32),
        "temperature": rng.choice((0.0, 0.5, 0.8, 1.0, 1.3)),
        "top_k": rng.choice((0, 1, 5, 40)),
        "top_p": rng.choice((1.0, 0.95, 0.5)),
        "min_p": rng.choice((0.0, 0.05)),
    }
    if rng.random() < 0.3:
        fields["presence_penalty"] = rng.choice((-0.5, 0.5, 1.0))
        fields["repetition_penalty"] = rng.choice((1.0, 1.2))
    if rng.random() < 0.3:
        fields["stop"] = rng.sample(_STOPS, rng.randint(1, 3))
    if rng.random() < 0.1:
        fields["ignore_eos"] = True
    return Request(fields, rng.randint(0, 20) if rng.random() < leaving else None)


async def send(client: httpx.AsyncClient, model: str, request: Request) -> Seen:
    """Ask for one streamed completion, and leave early where the request says so."""
    seen = Seen(request)
    body = {"model": model, "stream": True, **request.fields}
    began = last = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                seen.error = f"{response.status_code}: {response.text}"
                return seen
            num_chunks = 0
            async for line in response.aiter_lines():
                if num_chunks == request.leaves_after:
                    break
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    seen.error = chunk["error"]["message"]
                    break
                now = time.perf_counter()
                if seen.first_token_s is None:
                    seen.first_token_s = now - began
                else:
                    seen.gaps_s.append(now - last)
                last = now
                num_chunks += 1
                seen.text += chunk["choices"][0]["text"]
                seen.finish_reason = chunk["choices"][0]["finish_reason"]
                seen.num_tokens = chunk.get("timings", {}).get("predicted_n", num_chunks)
    except httpx.HTTPError as error:
        seen.error = f"{type(error).__name__}: {error}"
    seen.total_s = time.perf_counter() - began
    return seen


async def run_clients(
    url: str, model: str, requests: Iterator[Request], *, num_clients: int
) -> list[Seen]:
    """So many clients at a time take requests from one iterator until it ends."""
    results: list[Seen] = []
    # A limit on connections would make clients wait here, where others have just left.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=num_clients)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as client:

        async def work() -> None:
            for request in requests:
                results.append(await send(client, model, request))

        await asyncio.gather(*(work() for _ in range(num_clients)))
    return results
