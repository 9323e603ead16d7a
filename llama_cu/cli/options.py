"""Options that several commands share. Only typer is imported here: --help must stay quick."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="PATH",
        help="Model folder, GGUF file, name of a pulled model, or story or chat.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto, f32, f16 or bf16 (or their long names).")
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="int8|int4|none",
        help="Hold the weights in 8 or 4 bits; none expands those of a GGUF file.",
    ),
]
KvDtype = Annotated[
    str, typer.Option("--kv-dtype", metavar="auto|int8", help="Hold the KV cache in 8 bits.")
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="On a CPU: hold weights as small as the file, slower."),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option("--max-model-len", help="Longest prompt and answer together, in tokens."),
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="0 takes the likeliest token each time.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw from the k likeliest tokens.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="Draw from the likeliest tokens of this total.")
]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", help="Drop tokens less likely than this share of the likeliest."),
]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1 avoids repetition.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Same seed, same text. Drawn if not given.")
]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this text. Repeatable.")]
Speculate = Annotated[
    str | None,
    typer.Option(
        "--speculate",
        metavar="ngram",
        help="Guess tokens from the text so far; the answer is the same.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
