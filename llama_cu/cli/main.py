"""The llama-cu program: options in, exit code out. Commands load their modules when they run."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_cu import __version__
from llama_cu.cli import options as opt
from llama_cu.errors import LlamaCuError

app = typer.Typer(
    name="llama-cu",
    help="Llama-family inference on CUDA and NumPy.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# The base class of all of typer's own usage errors, which typer itself exports under no name.
_UsageError: Any = typer.BadParameter.__base__

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    0 success, 1 a model, device or file that cannot be used, 2 wrong arguments, 130 Ctrl-C.
    Errors are one line on stderr; `--debug`, anywhere, shows the traceback too.
    """
    if argv is None:
        argv = sys.argv[1:]
        if hasattr(signal, "SIGPIPE"):
            # `llama-cu story | head` ends like any other program in a pipe.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is no reason to lose the others.
            sys.stdout.reconfigure(errors="replace")
    debug = "--debug" in argv
    arguments = ["--debug"] * debug + [a for a in argv if a != "--debug"]
    try:
        return int(app(args=arguments, prog_name="llama-cu", standalone_mode=False) or _OK)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", _INTERRUPTED, debug=debug)
    except _UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        return _fail(error.format_message().rstrip(".") + where, _USAGE, debug=debug)
    except ValueError as error:
        return _fail(str(error), _USAGE, debug=debug)
    except MemoryError as error:
        return _fail(f"out of memory: {error}", _FAILED, debug=debug)
    except (LlamaCuError, OSError) as error:
        return _fail(str(error), _FAILED, debug=debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error} (a bug; --debug shows where)"
        return _fail(what, _FAILED, debug=debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if sys.stderr is not None:
        print("llama-cu: error:", " ".join(message.split()), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if version:
        print(f"llama-cu {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def story(
    prompt: Annotated[
        str, typer.Argument(help="How the story begins.", metavar="[PROMPT]")
    ] = "Once upon a time",
    model: opt.Model = "story",
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    max_tokens: opt.MaxTokens = 512,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    seed: opt.Seed = None,
) -> None:
    """Tell a story, word by word."""
    from llama_cu.cli.load import given
    from llama_cu.cli.story import tell_story

    options = given(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    load = {"device": device, "dtype": dtype, "quantize": quantize}
    raise typer.Exit(tell_story(model, prompt, load=load, options=options))


@app.command()
def chat(
    model: opt.Model = "chat",
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    max_model_len: opt.MaxModelLen = None,
    system: Annotated[str | None, typer.Option("--system", help="The system prompt.")] = None,
    max_tokens: opt.MaxTokens = None,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    seed: opt.Seed = None,
    speculate: opt.Speculate = None,
) -> None:
    """Talk with a model. /help inside shows the commands."""
    from llama_cu.cli.chat import run_chat
    from llama_cu.cli.load import given, load_model

    options = given(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    llm = load_model(
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        max_model_len=max_model_len,
        speculate=speculate,
    )
    raise typer.Exit(run_chat(llm, model=model, system=system, options=options))


@app.command()
def generate(
    model: opt.Model = "story",
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="The prompt; - reads it from stdin.")
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", help='The prompt as token ids: "1,2,3".')
    ] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    max_model_len: opt.MaxModelLen = None,
    max_tokens: opt.MaxTokens = 256,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    repetition_penalty: opt.RepetitionPenalty = None,
    seed: opt.Seed = None,
    stop: opt.Stop = None,
    logprobs: Annotated[
        int | None, typer.Option("--logprobs", help="With --json: the n likeliest tokens too.")
    ] = None,
    speculate: opt.Speculate = None,
    as_json: opt.AsJson = False,
) -> None:
    """Answer one prompt, for scripts."""
    from llama_cu.cli import generate as command
    from llama_cu.cli.load import given

    options = given(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or None,
        logprobs=logprobs,
    )
    command.generate(
        model,
        command.read_prompt(prompt, prompt_ids),
        load={
            "device": device,
            "dtype": dtype,
            "quantize": quantize,
            "max_model_len": max_model_len,
            "speculate": speculate,
        },
        as_json=as_json,
        options=options,
    )


@app.command()
def serve(
    model: opt.Model = "chat",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", help="The model's name in the API.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="LLAMA_CU_API_KEY", help="Refuse requests without this key."
        ),
    ] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    max_model_len: opt.MaxModelLen = None,
    kv_cache_memory: Annotated[
        str | None, typer.Option("--kv-cache-memory", help="Memory for the KV cache: 512M, 4G.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        typer.Option("--gpu-memory-utilization", help="Share of the free memory for the KV cache."),
    ] = None,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="Never use CUDA graphs (to look for faults).")
    ] = False,
    speculate: opt.Speculate = None,
    max_num_seqs: Annotated[
        int, typer.Option("--max-num-seqs", help="Answers computed at a time.")
    ] = 64,
    max_batch_tokens: Annotated[
        int | None, typer.Option("--max-batch-tokens", help="Tokens computed in one step.")
    ] = None,
    max_queue: Annotated[int, typer.Option("--max-queue", help="Answers that may wait.")] = 256,
    max_streams: Annotated[
        int, typer.Option("--max-streams", help="Open requests of one client.")
    ] = 64,
    max_prompt_tokens: Annotated[
        int | None, typer.Option("--max-prompt-tokens", help="Longest prompt taken.")
    ] = None,
    request_timeout: Annotated[
        float, typer.Option("--request-timeout", help="Seconds that an answer may take.")
    ] = 600.0,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", help="Origin that browsers may call from. Repeatable."),
    ] = None,
) -> None:
    """Serve OpenAI's API and a chat page."""
    from llama_cu.cli.load import memory_size
    from llama_cu.cli.serve import serve as run_server

    raise typer.Exit(
        run_server(
            model,
            host=host,
            port=port,
            served_model_name=served_model_name,
            load={
                "device": device,
                "dtype": dtype,
                "quantize": quantize,
                "max_model_len": max_model_len,
                "kv_cache_bytes": memory_size("--kv-cache-memory", kv_cache_memory),
                "gpu_memory_utilization": gpu_memory_utilization,
                "max_num_seqs": max_num_seqs,
                "enforce_eager": enforce_eager,
                "speculate": speculate,
                "max_batch_tokens": max_batch_tokens,
            },
            limits={
                "api_key": api_key,
                "cors_origins": tuple(cors_origin or ()),
                "max_queue": max_queue,
                "max_streams": max_streams,
                "max_prompt_tokens": max_prompt_tokens,
                "request_timeout_s": request_timeout,
            },
        )
    )


@app.command()
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
    )
    command.bench(
        model,
        random=random,
        device=device,
        dtype=dtype,
        quantize=quantize,
        plan=plan,
        as_json=as_json,
        plot=plot,
    )


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="org/name, org/name/file.gguf or an alias; @revision behind it.")
    ],
) -> None:
    """Fetch a model from Hugging Face's hub. What is here already is not fetched again."""
    from llama_cu.cli.models import pull_model

    pull_model(name)


@app.command()
def models(as_json: opt.AsJson = False) -> None:
    """List the models that are here, with size and type of the weights."""
    from llama_cu.cli.models import show_models

    show_models(as_json=as_json)


@app.command()
def rm(name: Annotated[str, typer.Argument(help="The name of a pulled model.")]) -> None:
    """Delete a pulled model."""
    from llama_cu.cli.models import remove_model

    remove_model(name)


@app.command()
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


@app.command()
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
    as_json: opt.AsJson = False,
) -> None:
    """Say how well a model predicts a text: perplexity and bits per byte."""
    from llama_cu.cli.perplexity import read_text, show_perplexity

    show_perplexity(
        model,
        read_text(text),
        context=context,
        stride=stride,
        load={"device": device, "dtype": dtype, "quantize": quantize},
        as_json=as_json,
    )


@app.command()
def kernels(
    arch: Annotated[
        str, typer.Option("--arch", help="The GPU's architecture, such as sm_90.")
    ] = "sm_90",
    as_json: opt.AsJson = False,
) -> None:
    """Compile every kernel and show registers, spills and shared memory. Needs no GPU."""
    from llama_cu.cli.kernels import show_kernels

    show_kernels(arch, as_json=as_json)


@app.command()
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
