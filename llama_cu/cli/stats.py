"""The numbers of an answer, in words."""

from __future__ import annotations

from typing import Any

from llama_cu.llm import LLM
from llama_cu.output import Output


def summary(llm: LLM, output: Output) -> str:
    """One line: tokens, time to the first, speed, device."""
    timings = output.timings
    reused = f" ({output.num_cached_tokens} reused)" if output.num_cached_tokens else ""
    parts = [
        f"{timings.prompt_tokens} prompt tokens{reused}",
        f"{timings.generated_tokens} generated",
        f"first after {timings.time_to_first_token_s:.2f} s",
        f"{timings.tokens_per_s:.0f} tok/s",
        f"{llm.device_name}, {llm.dtype}",
    ]
    return " | ".join(parts)


def timings_json(output: Output) -> dict[str, Any]:
    timings = output.timings
    return {
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": output.num_cached_tokens,
        "generated_tokens": timings.generated_tokens,
        "time_to_first_token_s": timings.time_to_first_token_s,
        "total_s": timings.total_s,
        "tokens_per_s": timings.tokens_per_s,
    }
