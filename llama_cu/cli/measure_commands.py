"""The options of bench, perplexity, kernels and info. What they do is loaded when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_cu.cli import options as opt


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PATH",
            help="Model folder, GGUF file, or a model's name [default: story].",
        ),
    ] = None,
    random: Annotated[
        str | None,
        typer.Option("--random", help="Random weights of a real shape, such as llama-3.1-8b."),
    ] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    kv_dtype: opt.KvDtype = "auto",
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", help="Sequences that decode at a time.")
    ] = "1,8,64",
    contexts: Annotated[
        str | None,
        typer.Option("--contexts", help="Tokens before the decoded ones [default: 512,4096]."),
    ] = None,
    prompt_len: Annotated[
        int | None, typer.Option("--prompt-len", help="Tokens of prefill [default: 2048].")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Samples of each median.")] = 5,
    steps: Annotated[int, typer.Option("--steps", help="Steps of decode in a sample.")] = 32,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap", help="Kernels of a step begin before those ahead end (compute 9.0 on)."
        ),
    ] = False,
    as_json: opt.AsJson = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw decode into an SVG file.")
    ] = None,
) -> None:
    """Measure prefill and decode against this device's own bandwidth and GEMM rate."""
    from llama_cu.bench.run import Plan
    from llama_cu.cli import bench as command

    plan = Plan(
        batch_sizes=command.sizes("--batch-sizes", batch_sizes),
        contexts=None if contexts is None else command.sizes("--contexts", contexts),
        prompt_len=prompt_len,
        repeats=repeats,
        steps=steps,
        kv_dtype=kv_dtype,
    )
    command.bench(
        model,
        random=random,
        device=device,
        dtype=dtype,
        quantize=quantize,
        overlap=overlap,
        plan=plan,
        as_json=as_json,
        plot=plot,
    )


def perplexity(
    text: Annotated[
        str, typer.Option("--text", metavar="FILE", help="Text to score, UTF-8; - is stdin.")
    ],
    model: opt.Model = "story",
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens of a window [default: the model's, at most 2048]."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option("--stride", help="Tokens between windows [default: half a window]."),
    ] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    kv_dtype: opt.KvDtype = "auto",
    low_memory: opt.LowMemory = False,
    as_json: opt.AsJson = False,
) -> None:
    """Say how well a model predicts a text: perplexity and bits per byte."""
    from llama_cu.cli.perplexity import read_text, show_perplexity

    show_perplexity(
        model,
        read_text(text),
        context=context,
        stride=stride,
        load={
            "device": device,
            "dtype": dtype,
            "quantize": quantize,
            "kv_dtype": kv_dtype,
            "low_memory": low_memory,
        },
        as_json=as_json,
    )


def kernels(
    arch: Annotated[
        str, typer.Option("--arch", help="The GPU's architecture, such as sm_90.")
    ] = "sm_90",
    as_json: opt.AsJson = False,
) -> None:
    """Compile every kernel and show registers, spills and shared memory. Needs no GPU."""
    from llama_cu.cli.kernels import show_kernels

    show_kernels(arch, as_json=as_json)


def info(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Say what a model is, instead."),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """What this machine has, and what to install when something is missing."""
    from llama_cu.cli.info import show_info, show_model

    if model is None:
        show_info(as_json=as_json)
    else:
        show_model(model, as_json=as_json)
