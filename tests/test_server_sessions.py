"""The chat API of the original system: an event stream for each session, and messages to it."""

from __future__ import annotations

import asyncio
import http.client
import queue
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")

from live_server import LiveServer, get, load_embedded, post, until
from llama_cu.server.sessions import Session


class Listener:
    """Reads a session's event stream in a thread; events are the texts of `data:` frames."""

    def __init__(self, server, session_id):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._connection.request("GET", f"/api/init/{session_id}")
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.kind = self._response.headers["Content-Type"]
        self.events: queue.Queue = queue.Queue()
        self.comments = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        data = []
        try:
            for line in self._response:
                line = line.decode().rstrip("\n")
                if line.startswith("data: "):
                    data.append(line[6:])
                elif line.startswith(":"):
                    self.comments.append(line)
                elif not line and data:
                    self.events.put("\n".join(data))
                    data = []
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # the stream was closed
        self.events.put(None)

    def answer(self):
        """The pieces up to [DONE]."""
        pieces = []
        while (event := self.events.get(timeout=30)) != "[DONE]":
            assert event is not None, "the stream ended within an answer"
            pieces.append(event)
        return pieces

    def close(self):
        self._connection.sock.shutdown(2)
        self._thread.join(10)
        self._response.close()
        self._connection.close()


@pytest.fixture(scope="module")
def server():
    with LiveServer(load_embedded("chat"), model_name="chat", ping_s=0.2) as live:
        yield live


@pytest.fixture
def listen(server):
    opened = []

    def listen(session_id):
        listener = Listener(server, session_id)
        opened.append(listener)
        return listener

    yield listen
    for listener in opened:
        listener.close()


def say(server, session_id, message):
    return post(server, "/api/chat", {"session_id": session_id, "message": message})[:2]


def messages(server, session_id):
    return get(server, f"/api/sessions/{session_id}")[1]["messages"]


def test_an_answer_comes_as_events_and_is_kept_as_one_message(server, listen):
    stream = listen("one")
    assert stream.status == 200 and stream.kind.startswith("text/event-stream")

    assert say(server, "one", "hello") == (200, {"message": "msg sent"})
    pieces = stream.answer()

    assert pieces and all(pieces)
    until(lambda: len(messages(server, "one")) == 2)
    assert messages(server, "one") == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "".join(pieces)},
    ]


def test_an_unknown_session_is_a_400_in_the_originals_words(server):
    for path, body in (
        ("/api/chat", {"session_id": "nobody", "message": "hello"}),
        ("/api/sessions/nobody/revert", {"turn": 0}),
    ):
        assert post(server, path, body)[:2] == (400, {"message": "Session not found"})
    assert get(server, "/api/sessions/nobody", method="DELETE")[0] == 400


def test_sessions_hear_only_themselves_even_at_the_same_time(server, listen):
    streams = {name: listen(name) for name in ("left", "right")}
    for name in streams:
        say(server, name, f"tell me a story about a {name} shoe")

    answers = {name: "".join(stream.answer()) for name, stream in streams.items()}

    for name in streams:
        until(lambda name=name: len(messages(server, name)) == 2)
        assert messages(server, name)[1]["content"] == answers[name]
        assert streams[name].events.empty()


def test_two_readers_of_a_session_read_the_same(server, listen):
    first, second = listen("shared"), listen("shared")
    say(server, "shared", "hello")

    assert first.answer() == second.answer()


def test_a_second_turn_remembers_and_reuses_the_first(server, listen):
    stream = listen("memory")
    say(server, "memory", "tell me a story about a fox and a very big drum, please")
    stream.answer()
    before = server.service.metrics.cached_tokens._value.get()

    say(server, "memory", "what happened next?")
    stream.answer()

    assert server.service.metrics.cached_tokens._value.get() > before + 16
    until(lambda: len(messages(server, "memory")) == 4)


def test_a_message_during_an_answer_is_refused(server, listen):
    stream = listen("busy")
    say(server, "busy", "tell me a long story about a bear")
    status, body = say(server, "busy", "hello?")

    assert status in (200, 409)  # the answer may have been quick
    if status == 409:
        assert "on its way" in body["error"]["message"]
    stream.answer()


def test_revert_forgets_later_turns_and_delete_all_of_them(server, listen):
    stream = listen("past")
    for text in ("hello", "how are you?", "tell me a joke"):
        say(server, "past", text)
        stream.answer()
    until(lambda: len(messages(server, "past")) == 6)
    kept = messages(server, "past")[:2]

    status, body, _ = post(server, "/api/sessions/past/revert", {"turn": 1})

    assert (status, body) == (200, {"messages": kept})
    assert post(server, "/api/sessions/past/revert", {"turn": 9})[0] == 400
    assert get(server, "/api/sessions/past", method="DELETE")[:2] == (
        200,
        {"message": "session deleted"},
    )
    assert stream.events.get(timeout=10) is None
    assert get(server, "/api/sessions/past")[0] == 400


def test_the_stream_is_pinged(listen):
    stream = listen("quiet")

    until(lambda: len(stream.comments) >= 2)

    assert all(comment.startswith(": ping") for comment in stream.comments)


def test_a_listener_that_leaves_ends_the_answer_it_waited_for(server):
    stream = Listener(server, "leaver")
    say(server, "leaver", "tell me a story about a whale")
    until(lambda: server.scheduler.running)

    stream.close()

    until(lambda: not server.scheduler.running and server.all_blocks_free)


def test_a_full_context_drops_the_oldest_turns():
    def load():
        llm = load_embedded("chat", max_model_len=96)()
        return llm

    with LiveServer(load, model_name="chat") as server:
        stream = Listener(server, "long")
        for turn in range(6):
            assert say(server, "long", f"my dog has {turn} red balls and a hat")[0] == 200
            stream.answer()
        assert len(messages(server, "long")) < 12
        status, body = say(server, "long", "word " * 200)
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        stream.close()


def test_sessions_are_capped_and_idle_ones_leave():
    settings = {"model_name": "chat", "max_sessions": 2, "session_idle_s": 0.5}
    with LiveServer(load_embedded("chat"), **settings) as server:
        streams = [Listener(server, name) for name in ("a", "b")]
        assert get(server, "/api/init/c")[0] == 429
        streams[0].close()
        until(lambda: len(server.app.state.sessions.find("a").listeners) == 0)

        third = Listener(server, "c")  # takes the place of the one that nobody hears

        assert third.status == 200 and get(server, "/api/sessions/a")[0] == 400
        streams[1].close()
        until(lambda: not server.app.state.sessions.find("b").listeners)
        time.sleep(0.6)
        assert get(server, "/api/sessions/b")[0] == 400
        third.close()


def test_the_stream_of_a_reader_that_falls_behind_ends_and_others_hear_all():
    session = Session("a")
    behind, reading = asyncio.Queue(2), asyncio.Queue(10)
    session.listeners = {behind, reading}

    for piece in "abcd":
        session.tell(piece)

    assert [reading.get_nowait() for _ in range(4)] == [*"abcd"]
    assert session.listeners == {reading}
    heard = [behind.get_nowait() for _ in range(behind.qsize())]
    assert heard[-1] is None, "its stream waits for ever"
