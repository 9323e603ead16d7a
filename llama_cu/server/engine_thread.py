"""The one thread that owns the device: commands come in, progress goes out, step by step.

The event loop never touches the engine. It reads from a sequence what the thread has finished
writing: `finish_reason` is set last, so a reader looks at it first.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from llama_cu.llm import LLM
from llama_cu.sequence import Sequence

log = logging.getLogger("llama_cu.server")

Command = Callable[[LLM], None]
Observe = Callable[[Sequence, float], None]
"""observe(sequence, seconds since its last token or its arrival), for each token drawn."""

LOADING, READY, LOST, FAILED, STOPPED = "loading", "ready", "lost", "failed", "stopped"


class EngineFailure(Exception):
    """The step that computed this request raised, or the device is gone."""


class Ticket:
    """One request in the engine, seen from the event loop: its sequences, and news of them."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.failure: EngineFailure | None = None
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    @property
    def finished(self) -> bool:
        return all(sequence.finished for sequence in self.sequences)

    async def news(self) -> None:
        """Wait for a token or an end since the last call. Raises EngineFailure."""
        await self._news.wait()
        self._news.clear()
        if self.failure is not None:
            raise self.failure

    def wake(self) -> None:
        """Called on the event loop."""
        self._news.set()


class EngineThread:
    """Loads the model, then runs the engine while there is work and sleeps while there is none."""

    def __init__(self, load: Callable[[], LLM], observe: Observe | None = None) -> None:
        self.state = LOADING
        self.llm: LLM | None = None
        self.failure: Exception | None = None
        self._load = load
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._tickets: dict[Sequence, Ticket] = {}
        self._last_token_s: dict[Sequence, float] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def settled(self) -> None:
        """Wait until the model is loaded, or could not be."""
        await self._settled.wait()

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket's sequences; what becomes of them is the ticket's news."""

        def command(llm: LLM) -> None:
            try:
                for sequence in ticket.sequences:
                    self._tickets[sequence] = ticket
                    llm.engine.submit(sequence)
            except Exception as error:
                self._fail([ticket], EngineFailure(str(error)))

        self._commands.put(command)

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket's sequences before the next step; their blocks come back."""
        if not ticket.finished:
            self._commands.put(lambda llm: self._abort(ticket))

    async def call(self, function: Callable[[LLM], Any]) -> Any:
        """Run a function between two steps, on the thread that owns the device."""
        result: asyncio.Future[Any] = self._loop.create_future()

        def settle(value: Any, error: Exception | None) -> None:
            if not result.done():
                result.set_result(value) if error is None else result.set_exception(error)

        def command(llm: LLM) -> None:
            try:
                value, error = function(llm), None
            except Exception as raised:
                value, error = None, raised
            self._post(settle, value, error)

        self._commands.put(command)
        return await result

    def stop(self, timeout_s: float = 10.0) -> None:
        """End what is running, then the thread."""
        self._commands.put(None)
        self._thread.join(timeout_s)

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        try:
            llm = self.llm = self._load()
        except Exception as error:
            self.failure = error
            self._become(FAILED)
            return
        self._become(READY)
        while self._obey(llm):
            if llm.engine.has_work:
                self._step(llm)
        self._fail(set(self._tickets.values()), EngineFailure("the server is shutting down"))
        self._become(STOPPED)

    def _become(self, state: str) -> None:
        self.state = state
        self._post(self._settled.set)

    def _obey(self, llm: LLM) -> bool:
        """Carry out what came in, waiting for it when there is nothing else; False to end."""
        waits = not llm.engine.has_work
        while True:
            try:
                command = self._commands.get(block=waits)
            except queue.Empty:
                return True
            if command is None:
                return False
            command(llm)
            waits = False

    def _step(self, llm: LLM) -> None:
        try:
            drawn = llm.engine.step()
        except Exception as error:
            log.exception("a step failed")
            self._after_failure(llm, error)
            return
        now = time.perf_counter()
        if self._observe is not None:
            for sequence in drawn:
                before = self._last_token_s.get(sequence, sequence.arrival_s)
                self._observe(sequence, now - before)
                self._last_token_s[sequence] = now
        for sequence in drawn:
            if sequence.failure is not None and sequence in self._tickets:
                self._fail([self._tickets[sequence]], EngineFailure(sequence.failure))
        self._wake({self._tickets[s] for s in drawn if s in self._tickets})
        for sequence in drawn:
            if sequence.finished:
                self._forget(sequence)

    def _after_failure(self, llm: LLM, error: Exception) -> None:
        """The step's sequences have ended with "error"; a lost device ends all the others too."""
        failed = {self._tickets[s] for s in self._tickets if s.finish_reason == "error"}
        why = EngineFailure(f"the computation failed: {type(error).__name__}: {error}")
        if not _device_answers(llm):
            failed = set(self._tickets.values())
            why = EngineFailure("the device is lost")
            self._become(LOST)
        self._fail(failed, why)

    def _fail(self, tickets: Iterable[Ticket], why: EngineFailure) -> None:
        for ticket in tickets:
            ticket.failure = why
            self._abort(ticket)

    def _abort(self, ticket: Ticket) -> None:
        assert self.llm is not None
        for sequence in ticket.sequences:
            self.llm.engine.abort(sequence)
            self._forget(sequence)
        self._wake({ticket})

    def _forget(self, sequence: Sequence) -> None:
        self._tickets.pop(sequence, None)
        self._last_token_s.pop(sequence, None)

    def _wake(self, tickets: set[Ticket]) -> None:
        if tickets:
            self._post(_wake_all, tickets)


def _wake_all(tickets: set[Ticket]) -> None:
    for ticket in tickets:
        ticket.wake()


def _device_answers(llm: LLM) -> bool:
    """Whether a few bytes still go up and come back."""
    ops = llm.engine.model.ops
    try:
        back = ops.download(ops.upload(np.arange(4, dtype=np.int32)))
    except Exception:
        log.exception("the device does not answer")
        return False
    return bool((np.asarray(back) == np.arange(4)).all())
