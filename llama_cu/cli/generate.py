"""llama-cu generate: one answer for scripts, as text or as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from llama_cu.cli.load import load_model, sampling_params
from llama_cu.cli.stats import timings_json
from llama_cu.find_model import find_model
from llama_cu.llm import LLM
from llama_cu.output import Output


def read_prompt(prompt: str | None, prompt_ids: str | None) -> str | list[int]:
    """The prompt of `--prompt` (- is stdin, less its last line end) or of `--prompt-ids`."""
    if (prompt is None) == (prompt_ids is None):
        raise ValueError("give either --prompt or --prompt-ids")
    if prompt_ids is not None:
        return _parse_ids(prompt_ids)
    if prompt == "-":
        if sys.stdin is None:
            raise ValueError("--prompt - reads stdin, which is closed")
        return sys.stdin.read().removesuffix("\n")
    assert prompt is not None
    return prompt


def generate(
    model: str,
    prompt: str | list[int],
    *,
    load: dict[str, Any],
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Print the answer to stdout: its text, or one JSON object. `load` is for `load_model`."""
    if sys.stdout is None:
        raise OSError("stdout is closed")
    llm = load_model(model, **load)
    (output,) = llm.generate([prompt], sampling_params(llm, options))
    if as_json:
        is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        answer = _json(llm, output, str(find_model(model)))
        print(json.dumps(answer, ensure_ascii=not is_unicode))
    elif llm.tokenizer is None:
        print(",".join(map(str, output.token_ids)))
    else:
        print(output.text)


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in (text.split(",") if "," in text else text.split())]
    except ValueError:
        raise ValueError(
            f"--prompt-ids must be token ids with commas between, got {text!r}"
        ) from None


def _json(llm: LLM, output: Output, model: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "text": output.text,
        "token_ids": output.token_ids,
        "prompt_token_ids": output.prompt_token_ids,
        "finish_reason": output.finish_reason,
        "timings": timings_json(output),
        "model": model,
        "device": llm.device_name,
        "dtype": llm.dtype,
    }
    if output.logprobs is not None:
        result["logprobs"] = [
            {str(token_id): entry.logprob for token_id, entry in position.items()}
            for position in output.logprobs
        ]
    return result
