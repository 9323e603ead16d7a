"""The options of story, chat, generate and serve. What they do is loaded when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from llama_cu.cli import options as opt


def story(
    prompt: Annotated[
        str, typer.Argument(help="How the story begins.", metavar="[PROMPT]")
    ] = "Once upon a time",
    model: opt.Model = "story",
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    kv_dtype: opt.KvDtype = "auto",
    low_memory: opt.LowMemory = False,
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
    load = {
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "kv_dtype": kv_dtype,
        "low_memory": low_memory,
    }
    raise typer.Exit(tell_story(model, prompt, load=load, options=options))


def chat(
    model: opt.Model = "chat",
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    quantize: opt.Quantize = None,
    kv_dtype: opt.KvDtype = "auto",
    low_memory: opt.LowMemory = False,
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
        kv_dtype=kv_dtype,
        low_memory=low_memory,
        max_model_len=max_model_len,
        speculate=speculate,
    )
    raise typer.Exit(run_chat(llm, model=model, system=system, options=options))


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
    kv_dtype: opt.KvDtype = "auto",
    low_memory: opt.LowMemory = False,
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
            "kv_dtype": kv_dtype,
            "low_memory": low_memory,
            "max_model_len": max_model_len,
            "speculate": speculate,
        },
        as_json=as_json,
        options=options,
    )


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
    kv_dtype: opt.KvDtype = "auto",
    low_memory: opt.LowMemory = False,
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
                "kv_dtype": kv_dtype,
                "low_memory": low_memory,
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
