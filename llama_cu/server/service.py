"""Admission and bookkeeping: what stands between a route and the engine."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Request

from llama_cu.errors import LlamaCuError, RequestError
from llama_cu.llm import LLM
from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.server.constraint import Grammar, Grammars
from llama_cu.server.engine_thread import (
    FAILED,
    LOADING,
    READY,
    EngineFailure,
    EngineThread,
    Ticket,
)
from llama_cu.server.errors import ApiError, bad_request
from llama_cu.server.metrics import Metrics
from llama_cu.server.settings import Settings

log = logging.getLogger("llama_cu.server.requests")

RETRY_AFTER = {"Retry-After": "1"}

# Characters that are encoded in about a millisecond.
_SHORT_TEXT = 4096

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


class Service:
    """The loaded model, who is waiting for it, and what happened. Lives on one event loop."""

    def __init__(self, settings: Settings, load: Callable[[], LLM]) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.created = int(time.time())
        self.drain_until: float | None = None
        self._open: set[Job] = set()
        self._streams: Counter[str] = Counter()
        self.grammars: Grammars | None = None
        self._load = load
        self.engine = EngineThread(self._load_all, self._observe)
        self.metrics.gauge("requests_running", "Answers in the batch.", lambda: self._count(True))
        self.metrics.gauge("requests_waiting", "Answers in the queue.", lambda: self._count(False))
        self.metrics.gauge("preemptions", "Answers sent back to the queue.", self._preemptions)
        self.metrics.gauge("kv_cache_use", "Share of the KV cache in use.", self._cache_use)

    @property
    def llm(self) -> LLM:
        """The model. ApiError 503 while there is none to ask."""
        state, llm = self.engine.state, self.engine.llm
        if state == READY and llm is not None:
            return llm
        why = {LOADING: "the model is still loading", FAILED: "the model could not be loaded"}
        headers = RETRY_AFTER if state == LOADING else None
        raise ApiError(503, why.get(state, f"the engine is {state}"), code=state, headers=headers)

    def _load_all(self) -> LLM:
        llm = self._load()
        if llm.tokenizer is not None:
            self.grammars = Grammars(
                llm.tokenizer,
                vocab_size=llm.config.vocab_size,
                eos_token_ids=llm.eos_token_ids,
            )
        return llm

    async def encode(self, prompts: list[Any], param: str) -> list[list[int]]:
        """Token ids of texts, or checked ids. ApiError 400 for others, and for what is too long."""
        llm = self.llm
        try:
            encoded = await aside(
                sum(map(len, prompts)), lambda: [llm.encode(prompt) for prompt in prompts]
            )
        except (ValueError, LlamaCuError) as error:
            raise ApiError(400, f"{param}: {error}", param=param) from error
        for ids in encoded:
            self.check_length(ids, param)
        return encoded

    async def encode_chat(
        self, messages: list[dict[str, Any]], param: str = "messages"
    ) -> list[int]:
        """Token ids of a conversation, by the model's chat template; `param` is where it stood."""
        llm = self.llm
        length = sum(len(message["content"]) for message in messages)
        try:
            ids = await aside(length, lambda: llm.encode_chat(messages))
        except (ValueError, LlamaCuError) as error:
            raise ApiError(400, f"{param}: {error}", param=param) from error
        self.check_length(ids, param)
        return ids

    def check_length(self, ids: list[int], param: str) -> None:
        longest = min(self.llm.max_model_len, self.llm.engine.capacity) - 1
        longest = min(longest, self.settings.max_prompt_tokens or longest)
        if len(ids) > longest:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens, but at most {longest} fit",
                param=param,
                code="context_length_exceeded",
            )

    def open(
        self,
        request: Request,
        route: str,
        prompts: list[list[int]],
        params: SamplingParams,
        grammar: Grammar | None = None,
    ) -> Job:
        """Submit every prompt `params.n` times, to follow the grammar. Close the job in any case.

        ApiError 429 where the queue is full or the client has too many requests open.
        """
        client = request.client.host if request.client else "unknown"
        if self._streams[client] >= self.settings.max_streams:
            raise ApiError(
                429,
                f"{client} has {self.settings.max_streams} open requests, the most allowed",
                headers=RETRY_AFTER,
            )
        wanted = len(prompts) * params.n
        places = self.llm.engine.scheduler.max_num_seqs + self.settings.max_queue
        if wanted > places:
            param = "n" if params.n > 1 else "prompt"
            message = f"{param}: {wanted} answers are more than the server takes, {places}"
            raise ApiError(400, message, param=param)
        if self._num_sequences() + wanted > places:
            raise ApiError(429, "the queue is full", headers=RETRY_AFTER)
        try:
            sequences = [s for ids in prompts for s in self.llm.sequences(ids, params)]
            for sequence in sequences:
                self.llm.engine.check_fits(sequence)
                sequence.constraint = None if grammar is None else grammar.constraint(sequence)
        except (ValueError, RequestError) as error:
            raise bad_request(error) from error
        job = Job(self, Ticket(sequences), client, route)
        self._open.add(job)
        self._streams[client] += 1
        self.engine.submit(job.ticket)
        return job

    def begin_drain(self) -> None:
        """The server was told to stop: open answers have `drain_s` left."""
        if self.drain_until is None:
            self.drain_until = time.monotonic() + self.settings.drain_s

    def forget(self, job: Job, outcome: str) -> None:
        """Take a closed job's place back, and say what became of it."""
        self._open.remove(job)
        self._streams[job.client] -= 1
        if not self._streams[job.client]:
            del self._streams[job.client]
        figures = job.figures()
        self.metrics.requests.labels(job.route, outcome).inc()
        self.metrics.prompt_tokens.inc(figures["prompt_tokens"])
        self.metrics.cached_tokens.inc(figures["cached_tokens"])
        self.metrics.generated_tokens.inc(figures["generated_tokens"])
        line = {"request": job.id, "route": job.route, "client": job.client, "outcome": outcome}
        log.info(json.dumps({**line, **figures}))

    def _observe(self, sequence: Sequence, seconds: float) -> None:
        first = sequence.num_generated == 1
        (self.metrics.first_token if first else self.metrics.inter_token).observe(seconds)

    def _num_sequences(self) -> int:
        return sum(not s.finished for job in self._open for s in job.ticket.sequences)

    def _count(self, running: bool) -> int:
        if self.engine.llm is None:
            return 0
        in_batch = len(self.engine.llm.engine.scheduler.running)
        return in_batch if running else max(0, self._num_sequences() - in_batch)

    def _preemptions(self) -> int:
        return 0 if self.engine.llm is None else self.engine.llm.engine.scheduler.num_preemptions

    def _cache_use(self) -> float:
        if self.engine.llm is None:
            return 0.0
        allocator = self.engine.llm.engine.scheduler.allocator
        return 1 - allocator.num_free / allocator.num_blocks


class Job:
    """One request's answers on their way."""

    def __init__(self, service: Service, ticket: Ticket, client: str, route: str) -> None:
        self.service = service
        self.ticket = ticket
        self.client = client
        self.route = route
        self.id = uuid.uuid4().hex
        self._began = time.monotonic()
        self._closed = False

    @property
    def sequences(self) -> list[Sequence]:
        return self.ticket.sequences

    async def progress(self) -> AsyncIterator[None]:
        """Comes back whenever there is something new, the last time when all is there.

        ApiError 500 where the computation failed, 504 where it took too long, 503 where the
        server is about to end.
        """
        while True:
            # An answer that failed is no answer: the reason is on its way.
            failed = any(s.finish_reason == "error" for s in self.sequences)
            finished = self.ticket.finished and not failed
            yield
            if finished:
                return
            limit = self._began + self.service.settings.request_timeout_s
            late = ApiError(504, "the request took longer than the server allows")
            if self.service.drain_until is not None and self.service.drain_until < limit:
                limit = self.service.drain_until
                late = ApiError(503, "the server is shutting down")
            try:
                # In short waits, so that a shutdown that begins meanwhile is noticed.
                wait_s = min(1.0, max(0.0, limit - time.monotonic()))
                await asyncio.wait_for(self.ticket.news(), wait_s)
            except (asyncio.TimeoutError, TimeoutError):
                if time.monotonic() >= limit:
                    raise late from None
            except EngineFailure as failure:
                raise ApiError(500, str(failure)) from failure

    async def complete(self, request: Request) -> None:
        """Wait for all answers. ClientGone when the client does not."""
        waiting = asyncio.ensure_future(self._drain())
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientGone
            waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()

    async def _drain(self) -> None:
        async for _ in self.progress():
            pass

    def close(self, outcome: str | None = None) -> None:
        """Give everything back; answers that are not complete end here."""
        if self._closed:
            return
        self._closed = True
        if outcome is None:
            outcome = "ok" if self.ticket.finished and not self.ticket.failure else "cancelled"
        self.service.engine.cancel(self.ticket)
        self.service.forget(self, outcome)

    def figures(self) -> dict[str, Any]:
        """What the log and the metrics say of this job."""
        sequences = self.sequences
        first = [s.first_token_s - s.arrival_s for s in sequences if s.first_token_s is not None]
        return {
            "prompt_tokens": sum(s.prompt_len for s in sequences),
            "cached_tokens": sum(s.num_cached_tokens or 0 for s in sequences),
            "generated_tokens": sum(s.num_generated for s in sequences),
            "finish_reasons": [s.finish_reason for s in sequences],
            "time_to_first_token_s": round(min(first), 6) if first else None,
            "total_s": round(time.monotonic() - self._began, 6),
        }


async def aside(length: int, encode: Callable[[], T]) -> T:
    """The result of encoding so many characters or ids, long ones beside the event loop.

    Short ones stay: a thread waits for the interpreter lock, in turn with the engine. A prompt of
    45 characters took 0.06 ms here and 0.24 ms there, with one in ten at 4 ms.
    """
    return await asyncio.to_thread(encode) if length > _SHORT_TEXT else encode()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
