"""Runs the application on a socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from llama_cu.llm import LLM
from llama_cu.server.app import create_app
from llama_cu.server.engine_thread import FAILED
from llama_cu.server.settings import Settings

# Beyond the time that open answers get: for connections to close.
_CLOSING_S = 5


def run_server(
    settings: Settings,
    load: Callable[[], LLM],
    *,
    host: str,
    port: int,
    on_listen: Callable[[str], None],
) -> None:
    """Serve; `on_listen` gets the URL once connections are taken.

    Raises what `load` raised when the model could not be loaded, OSError for an address that is
    not to be had.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    app = create_app(settings, load)
    with _listen(host, port) as listener:
        Server(app, settings, lambda: on_listen(_url(listener))).run([listener])
    failure = app.state.service.engine.failure
    if failure is not None:
        raise failure


class Server(uvicorn.Server):
    """Ends when the model cannot be loaded, and lets open answers finish when it is told to end."""

    def __init__(self, app: FastAPI, settings: Settings, on_listen: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=round(settings.drain_s) + _CLOSING_S,
            )
        )
        self._state = app.state
        self._on_listen = on_listen

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listen()
        self._watcher = asyncio.create_task(self._end_without_model())

    async def _end_without_model(self) -> None:
        await self._state.service.engine.settled()
        if self._state.service.engine.state == FAILED:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.service.begin_drain()
        self._state.sessions.end_streams()
        await super().shutdown(sockets)
        if self.force_exit:
            await self._drop_open_answers()

    async def _drop_open_answers(self) -> None:
        """What a second signal asks for; uvicorn would leave them to the end of the event loop."""
        logging.getLogger("uvicorn.error").disabled = True  # it takes each for a crash
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING_S)
        await self.lifespan.shutdown()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
