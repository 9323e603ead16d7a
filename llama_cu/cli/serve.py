"""llama-cu serve: the engine behind HTTP."""

from __future__ import annotations

import signal
from typing import Any

from llama_cu.checkpoint.checkpoint import open_config
from llama_cu.cli.load import load_model, model_name
from llama_cu.cli.terminal import note
from llama_cu.errors import BackendUnavailable
from llama_cu.find_model import find_model
from llama_cu.llm import LLM


def serve(
    model: str,
    *,
    host: str,
    port: int,
    served_model_name: str | None,
    load: dict[str, Any],
    limits: dict[str, Any],
) -> int:
    """Serve until a signal ends it. BackendUnavailable where the `serve` extra is missing."""
    try:
        from llama_cu.server.run import run_server
        from llama_cu.server.settings import Settings
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"{error.name} is not installed: pip install 'llama-cu[serve]'"
        ) from error
    if hasattr(signal, "SIGPIPE"):  # a client that leaves in mid-write must not end the program
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # The web framework listens to Ctrl-C also where a shell's background job would ignore it; this
    # makes it end as anywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    open_config(find_model(model))  # a wrong name or config is an error before the server listens
    settings = Settings(model_name=served_model_name or model_name(model), **limits)

    def load_here() -> LLM:
        llm = load_model(model, **load)
        note(
            f"{settings.model_name}: {llm.dtype} on {llm.device_name}, KV cache for "
            f"{llm.engine.capacity:,} tokens, at most {llm.max_model_len:,} for one request"
        )
        return llm

    run_server(
        settings,
        load_here,
        host=host,
        port=port,
        on_listen=lambda url: note(f"listening on {url} (chat page at /, OpenAI's API at /v1)"),
    )
    return 0
