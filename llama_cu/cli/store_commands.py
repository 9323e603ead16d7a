"""The options of pull, models, rm and quantize. What they do is loaded when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_cu.cli import options as opt


def pull(
    name: Annotated[
        str, typer.Argument(help="org/name, org/name/file.gguf or an alias; @revision behind it.")
    ],
) -> None:
    """Fetch a model from Hugging Face's hub. What is here already is not fetched again."""
    from llama_cu.cli.models import pull_model

    pull_model(name)


def models(as_json: opt.AsJson = False) -> None:
    """List the models that are here, with size and type of the weights."""
    from llama_cu.cli.models import show_models

    show_models(as_json=as_json)


def rm(name: Annotated[str, typer.Argument(help="The name of a pulled model.")]) -> None:
    """Delete a pulled model."""
    from llama_cu.cli.models import remove_model

    remove_model(name)


def quantize(
    model: Annotated[str, typer.Argument(help="Model folder, GGUF file, or a model's name.")],
    out: Annotated[str, typer.Argument(help="The .gguf file to write.", metavar="OUT")],
    scheme: Annotated[
        str, typer.Option("--to", metavar="int8|int4", help="Q8_0 or Q4_1 of GGUF.")
    ] = "int4",
) -> None:
    """Write a model as a GGUF file, its matrices in 8 or 4 bits."""
    from llama_cu.cli.models import quantize_model

    quantize_model(model, out, scheme)
