"""Streams of server-sent events, and how they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from llama_cu.server.settings import Settings

# Beyond the time that answers get to finish: for the last event to reach its reader.
_LAST_WORDS_S = 2.0


def event(text: str, name: str | None = None) -> ServerSentEvent:
    """One event; a text of several lines is one event too."""
    return ServerSentEvent(text, event=name, sep="\n")


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")


class EventStream(EventSourceResponse):
    """Sends events as they come, with comments in between to keep the connection open.

    A reader that takes nothing for `send_timeout_s` is dropped. Nothing piles up for a slow one:
    what it has not read yet stays in its sequence, as text. `on_end` is called when the response
    is over, even one whose reader left before it began.
    """

    def __init__(
        self,
        settings: Settings,
        events: AsyncIterator[ServerSentEvent],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(
            events,
            ping=settings.ping_s,
            ping_message_factory=_ping,
            send_timeout=settings.send_timeout_s,
            shutdown_event=anyio.Event(),
            shutdown_grace_period=settings.drain_s + _LAST_WORDS_S,
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()
