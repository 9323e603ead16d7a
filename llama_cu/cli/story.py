"""llama-cu story: the prompt and how it goes on, as it is written."""

from __future__ import annotations

from typing import Any

from llama_cu.cli.interrupt import CtrlC
from llama_cu.cli.load import load_model, sampling_params
from llama_cu.cli.stats import summary
from llama_cu.cli.terminal import TextWriter, note
from llama_cu.llm import LLM
from llama_cu.output import Output


def tell_story(model: str, prompt: str, *, load: dict[str, Any], options: dict[str, Any]) -> int:
    """Stream a story to stdout and its numbers to stderr; the exit code, 130 after Ctrl-C.

    `load` is for `load_model`.
    """
    llm = load_model(model, **load)
    stream = llm.stream(prompt, sampling_params(llm, options))
    writer = TextWriter()
    with stream, CtrlC() as ctrl_c:
        writer.write(prompt)
        for piece in stream:
            writer.write(piece)
            if ctrl_c.pressed:
                break
    writer.end()
    note(summary(llm, stream.output) + _why_cut(llm, stream.output))
    return 130 if ctrl_c.pressed else 0


def _why_cut(llm: LLM, output: Output) -> str:
    if output.finish_reason != "length":
        return ""
    tokens = output.timings.prompt_tokens + output.timings.generated_tokens
    full = tokens >= llm.context_len
    return " | cut: context is full" if full else " | cut: --max-tokens"
