"""What holds for every request before a route sees it: the key, and the size of the body."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_cu.server.errors import ApiError
from llama_cu.server.settings import Settings

_OPEN_PATHS = ("/health",)

# Short answers; an event stream would never end for one who cannot see it.
_HEAD_PATHS = ("/", "/health", "/version", "/metrics", "/v1/models")

# How many times the largest allowed body is read, and thrown away, before the connection is cut.
_MOST_IGNORED = 8


class RequireKey:
    """Refuses requests without the API key, as a bearer token or as the password of basic auth.

    Basic auth is how a browser that opens the chat page asks for the key.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self.app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS or self._knows(scope):
            await self.app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong",
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Basic realm="llama-cu", charset="UTF-8"'},
        )
        await error.response()(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        kind, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
        given = value.strip().encode("utf-8", "surrogateescape")
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._key)


class LimitBody:
    """Refuses bodies that are too large or take too long to arrive, without keeping them.

    A body that is too large is still read for a while, since a client that is cut off in the
    middle of sending would not see why.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._most = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            coding = Headers(scope=scope).get("content-encoding", "identity")
            if coding.lower() != "identity":
                raise ApiError(
                    415,
                    f"bodies are taken as they are, not with Content-Encoding: {coding}",
                    headers={"Connection": "close"},
                )
            body = await self._read(receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes:
        """The whole body. ApiError 413 or 408; empty when the client leaves."""
        try:
            return await asyncio.wait_for(self._collect(receive), self._timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            raise ApiError(
                408, "the body did not arrive in time", headers={"Connection": "close"}
            ) from None

    async def _collect(self, receive: Receive) -> bytes:
        body = bytearray()
        size = 0
        more = True
        while more and size <= _MOST_IGNORED * self._most:
            message = await receive()
            if message["type"] != "http.request":
                return b""
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self._most:
                body += piece
            more = message.get("more_body", False)
        if size > self._most:
            raise ApiError(
                413,
                f"the body is larger than {self._most} bytes",
                headers={"Connection": "close"},
            )
        return bytes(body)


class AnswerHead:
    """Answers HEAD as GET, without the body: load balancers and monitors ask that way."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] in _HEAD_PATHS:
            scope = {**scope, "method": "GET"}  # the HTTP layer leaves the body out
        await self.app(scope, receive, send)
