"""The server as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from llama_cu import __version__
from llama_cu.checkpoint.tokenizer import Tokenizer
from llama_cu.errors import LlamaCuError
from llama_cu.llm import LLM
from llama_cu.server import openai_routes, responses_routes, session_routes
from llama_cu.server.engine_thread import READY
from llama_cu.server.errors import (
    ApiError,
    on_api_error,
    on_crash,
    on_http_exception,
    on_invalid_body,
)
from llama_cu.server.middleware import AnswerHead, LimitBody, RequireKey
from llama_cu.server.openai_schema import DetokenizeBody, TokenizeBody
from llama_cu.server.service import ClientGone, Service, aside
from llama_cu.server.sessions import Sessions
from llama_cu.server.settings import Settings

# The page brings all it needs, and may load nothing else.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(settings: Settings, load: Callable[[], LLM]) -> FastAPI:
    """An application whose engine begins to `load` its model when the application starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = Service(settings, load)
        app.state.sessions = sessions = Sessions(
            most=settings.max_sessions, idle_s=settings.session_idle_s
        )
        app.state.tasks = set[asyncio.Task[None]]()
        try:
            yield
        finally:
            sessions.close()
            await asyncio.to_thread(service.engine.stop)

    app = FastAPI(
        title="llama-cu",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # the framework's pages of documentation load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(openai_routes.router)
    app.include_router(responses_routes.router)
    app.include_router(session_routes.router)
    _add_plain_routes(app)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid_body)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, on_crash)
    # The one added last sees a request first.
    app.add_middleware(AnswerHead)
    app.add_middleware(LimitBody, settings=settings)
    if settings.api_key is not None:
        app.add_middleware(RequireKey, api_key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    return app


def _add_plain_routes(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        text = (files("llama_cu.server") / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        service: Service = request.app.state.service
        state = service.engine.state
        return JSONResponse({"status": state}, 200 if state == READY else 503)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        service: Service = request.app.state.service
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @app.post("/tokenize")
    async def tokenize(request: Request, body: TokenizeBody) -> dict[str, Any]:
        service: Service = request.app.state.service
        tokenizer = _tokenizer(service, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        plain = [message.plain() for message in body.messages or []]

        def encode() -> list[int]:
            if body.prompt is not None:
                return tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
            return tokenizer.encode(tokenizer.apply_chat_template(plain), add_special_tokens=False)

        try:
            length = len(body.prompt or "") + sum(len(message["content"]) for message in plain)
            ids = await aside(length, encode)
        except (ValueError, LlamaCuError) as error:
            raise ApiError(400, str(error)) from error
        return {"tokens": ids, "count": len(ids), "max_model_len": service.llm.max_model_len}

    @app.post("/detokenize")
    async def detokenize(request: Request, body: DetokenizeBody) -> dict[str, str]:
        tokenizer = _tokenizer(request.app.state.service, body.model)
        size = request.app.state.service.llm.config.vocab_size
        for token_id in body.tokens:
            if not 0 <= token_id < size:
                raise ApiError(
                    400, f"token ids must be in [0, {size}), got {token_id}", param="tokens"
                )
        text = await aside(
            len(body.tokens), lambda: tokenizer.decode(body.tokens, skip_special_tokens=False)
        )
        return {"prompt": text}


def _tokenizer(service: Service, model: str | None) -> Tokenizer:
    if model is not None:
        openai_routes.check_model(service, model)
    tokenizer = service.llm.tokenizer
    if tokenizer is None:
        raise ApiError(400, "the model has no tokenizer.json")
    return tokenizer


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
