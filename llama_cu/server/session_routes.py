"""The chat API of the original system: a session's event stream, and messages to it.

Every piece of an answer is one event; "[DONE]" follows the last. Each session hears itself alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sse_starlette import ServerSentEvent

from llama_cu.server.errors import ApiError
from llama_cu.server.events import EventStream, event
from llama_cu.server.openai_answers import Cursor
from llama_cu.server.openai_schema import Body
from llama_cu.server.service import Service
from llama_cu.server.sessions import Listener, Message, Session, Sessions

router = APIRouter(prefix="/api")

SessionId = Annotated[str, Path(min_length=1, max_length=128)]
DONE = "[DONE]"

# Pieces of an answer that a reader may be behind; then it is dropped.
_MOST_UNREAD = 4096


class ChatMessageBody(Body):
    session_id: Annotated[str, Field(min_length=1, max_length=128)]
    message: Annotated[str, Field(min_length=1)]


class RevertBody(Body):
    turn: int


@router.get("/init/{session_id}", response_model=None)
async def init(request: Request, session_id: SessionId) -> EventStream:
    """The session's event stream; opens the session where there is none of this id."""
    service: Service = request.app.state.service
    sessions: Sessions = request.app.state.sessions
    session = sessions.open(session_id)
    listener: Listener = asyncio.Queue(_MOST_UNREAD)
    session.listeners.add(listener)
    return EventStream(service.settings, _listen(listener), lambda: session.leave(listener))


async def _listen(listener: Listener) -> AsyncIterator[ServerSentEvent]:
    while (text := await listener.get()) is not None:
        yield event(text)


@router.post("/chat", response_model=None)
async def chat(request: Request, body: ChatMessageBody) -> JSONResponse | dict[str, str]:
    """Answer a message; the answer comes on the session's event stream."""
    service: Service = request.app.state.service
    session = _find(request, body.session_id)
    if session is None:
        return _not_found()
    if session.job is not None:
        raise ApiError(409, "the session's last answer is still on its way")
    messages, prompt = await _fit(service, session.messages, body.message)
    if session.job is not None or _find(request, body.session_id) is not session:
        raise ApiError(409, "the session changed meanwhile")
    params = replace(service.llm.default_params(), max_tokens=None)
    job = service.open(request, "/api/chat", [prompt], params)
    session.messages, session.job = messages, job
    task = asyncio.create_task(_answer(session))
    request.app.state.tasks.add(task)
    task.add_done_callback(request.app.state.tasks.discard)
    return {"message": "msg sent"}


@router.post("/sessions/{session_id}/revert", response_model=None)
async def revert(
    request: Request, session_id: SessionId, body: RevertBody
) -> JSONResponse | dict[str, Any]:
    """Forget all but the first N turns."""
    session = _find(request, session_id)
    if session is None:
        return _not_found()
    session.revert(body.turn)
    return {"messages": session.messages}


@router.get("/sessions/{session_id}", response_model=None)
async def messages(request: Request, session_id: SessionId) -> JSONResponse | dict[str, Any]:
    session = _find(request, session_id)
    return _not_found() if session is None else {"messages": session.messages}


@router.delete("/sessions/{session_id}", response_model=None)
async def delete(request: Request, session_id: SessionId) -> JSONResponse | dict[str, str]:
    sessions: Sessions = request.app.state.sessions
    return {"message": "session deleted"} if sessions.delete(session_id) else _not_found()


async def _fit(
    service: Service, earlier: list[Message], message: str
) -> tuple[list[Message], list[int]]:
    """The conversation with its new message, and its tokens.

    Where the context is full, the oldest turns leave. ApiError 400 when the message alone does
    not fit.
    """
    said = [*earlier, {"role": "user", "content": message}]
    while True:
        try:
            return said, await service.encode_chat([dict(entry) for entry in said])
        except ApiError as error:
            users = [i for i, entry in enumerate(said) if entry["role"] == "user"]
            if error.code != "context_length_exceeded" or len(users) < 2:
                raise
            said = said[users[1] :]


async def _answer(session: Session) -> None:
    """Tell the session's listeners the answer, and keep it as one message."""
    job = session.job
    assert job is not None
    cursor = Cursor(job.sequences[0])
    try:
        async for _ in job.progress():
            delta = cursor.advance()
            if delta.text:
                session.tell(delta.text)
    except ApiError as error:
        job.close(f"error {error.status}")
        session.tell(f"[ERROR] {error.message}")
    finally:
        job.close()
        if session.job is job:
            session.job = None
            session.messages.append({"role": "assistant", "content": job.sequences[0].text})
        session.tell(DONE)
        if session.ending:
            session.end_streams()


def _find(request: Request, session_id: str) -> Session | None:
    sessions: Sessions = request.app.state.sessions
    return sessions.find(session_id)


def _not_found() -> JSONResponse:
    return JSONResponse({"message": "Session not found"}, 400)
