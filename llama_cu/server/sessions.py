"""Conversations that the server keeps: messages of one session, and who listens to it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from llama_cu.server.errors import ApiError
from llama_cu.server.service import RETRY_AFTER, Job

Message = dict[str, str]
Listener = asyncio.Queue[str | None]


@dataclass(eq=False)
class Session:
    """One conversation. A turn is a user's message with the answer to it."""

    session_id: str
    messages: list[Message] = field(default_factory=list)
    job: Job | None = None
    listeners: set[Listener] = field(default_factory=set)
    ending: bool = False
    used: float = field(default_factory=time.monotonic)

    def revert(self, turn: int) -> None:
        """Forget what came after the first `turn` turns. Ends an answer on its way."""
        num_turns = sum(message["role"] == "user" for message in self.messages)
        if not 0 <= turn <= num_turns:
            raise ApiError(400, f"turn must be in [0, {num_turns}], got {turn}", param="turn")
        self.stop()
        users = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        end = users[turn] if turn < num_turns else len(self.messages)
        del self.messages[end:]

    def stop(self) -> None:
        if self.job is not None:
            self.job.close()
            self.job = None

    def close(self) -> None:
        """End the answer and every stream of the session."""
        self.stop()
        self.end_streams()

    def end_streams(self) -> None:
        for listener in self.listeners:
            _end(listener)

    def tell(self, text: str) -> None:
        """Send a piece to every listener; the stream of one that is too far behind ends."""
        for listener in list(self.listeners):
            try:
                listener.put_nowait(text)
            except asyncio.QueueFull:
                _end(listener)
                self.leave(listener)

    def leave(self, listener: Listener) -> None:
        """A listener is gone. With the last one the answer ends, as far as it came."""
        self.listeners.discard(listener)
        if not self.listeners and self.job is not None:
            self.job.close()


def _end(listener: Listener) -> None:
    while listener.full():
        listener.get_nowait()
    listener.put_nowait(None)


class Sessions:
    """All sessions of a server: so many at most, and idle ones leave."""

    def __init__(self, *, most: int, idle_s: float) -> None:
        self._most = most
        self._idle_s = idle_s
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session_id: str) -> Session:
        """The session of this id, a new one where there is none.

        ApiError 429 when there are too many and none of them is idle.
        """
        self._expire()
        if session_id not in self._sessions:
            if len(self._sessions) >= self._most:
                self._make_room()
            self._sessions[session_id] = Session(session_id)
        return self._touch(session_id)

    def find(self, session_id: str) -> Session | None:
        self._expire()
        return self._touch(session_id) if session_id in self._sessions else None

    def delete(self, session_id: str) -> bool:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.close()
        return session is not None

    def close(self) -> None:
        for session_id in list(self._sessions):
            self.delete(session_id)

    def end_streams(self) -> None:
        """Let the streams of quiet sessions end, and the others once their answer is complete."""
        for session in self._sessions.values():
            session.ending = True
            if session.job is None:
                session.end_streams()

    def _touch(self, session_id: str) -> Session:
        session = self._sessions[session_id]
        session.used = time.monotonic()
        self._sessions.move_to_end(session_id)
        return session

    def _expire(self) -> None:
        """Sessions that nobody listens to leave after their idle time."""
        limit = time.monotonic() - self._idle_s
        for session_id, session in list(self._sessions.items()):
            if session.used < limit and not session.listeners and session.job is None:
                self.delete(session_id)

    def _make_room(self) -> None:
        for session_id, session in self._sessions.items():
            if not session.listeners and session.job is None:
                self.delete(session_id)
                return
        raise ApiError(429, f"there are {self._most} open sessions already", headers=RETRY_AFTER)
