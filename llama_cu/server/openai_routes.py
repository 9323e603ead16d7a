"""OpenAI's API: models, completions, chat completions, whole and streamed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from llama_cu.sampling_params import SamplingParams
from llama_cu.sequence import Sequence
from llama_cu.server import openai_answers as answers
from llama_cu.server.constraint import Grammar
from llama_cu.server.errors import ApiError, bad_request
from llama_cu.server.events import EventStream, event
from llama_cu.server.openai_answers import Cursor, Delta, Json
from llama_cu.server.openai_schema import ChatBody, ChoicesBody, CompletionBody, SamplingBody
from llama_cu.server.service import Job, Service

Choice = Callable[[int, Delta], Json]
"""choice(index, delta): one entry of `choices` in a streamed chunk."""

router = APIRouter(prefix="/v1")

_MOST_TOP_LOGPROBS = 20
_DEFAULT_MAX_TOKENS = 16  # of a completion, as OpenAI has it


@router.get("/models")
@router.get("/models/", include_in_schema=False)
async def models(request: Request) -> Json:
    return {"object": "list", "data": [_model(request.app.state.service)]}


@router.get("/models/{model:path}")  # a name may be owner/name
async def model(request: Request, model: str) -> Json:
    service: Service = request.app.state.service
    check_model(service, model)
    return _model(service)


@router.post("/completions", response_model=None)
async def completions(request: Request, body: CompletionBody) -> JSONResponse | EventStream:
    service: Service = request.app.state.service
    n = 1 if body.n is None else body.n
    if body.best_of not in (None, n):
        message = f"best_of must be n, {n}, since all answers are given back, got {body.best_of}"
        raise ApiError(400, message, param="best_of")
    prompt_only = body.echo and body.max_tokens == 0
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = _params(
        service,
        body,
        n=n,
        max_tokens=1 if prompt_only else max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    prompts = await service.encode(body.prompts(), "prompt")
    echoed = await _echoes(service, body, prompts)
    grammar = await _grammar(service, body)
    job = service.open(request, "/v1/completions", prompts, params, grammar)
    reply = Reply(
        job, "cmpl", "text_completion", service.settings.model_name, prompt_only=prompt_only
    )
    texts = [echo for echo in echoed for _ in range(params.n)]
    offsets = [0] * len(texts)
    echoing = set(range(len(texts))) if body.echo else set()

    def choice(index: int, delta: Delta) -> Json:
        text, texts[index] = texts[index] + ("" if prompt_only else delta.text), ""
        logprobs = None
        if params.logprobs is not None:
            entries: list[answers.Entry] = []
            if index in echoing:
                entries += answers.prompt_entries(job.sequences[index])
            if not prompt_only:
                entries += delta.logprobs
            logprobs, offsets[index] = answers.completion_logprobs(
                service.llm.tokenizer, entries, params.logprobs, offsets[index]
            )
        echoing.discard(index)
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": answers.finish_reason(delta.finish_reason),
        }

    return await _respond(request, body, reply, choice, choice)


@router.post("/chat/completions", response_model=None)
async def chat_completions(request: Request, body: ChatBody) -> JSONResponse | EventStream:
    service: Service = request.app.state.service
    num_top = _num_top_logprobs(body)
    limits = (body.max_completion_tokens, body.max_tokens)
    max_tokens = next((limit for limit in limits if limit is not None), None)
    n = 1 if body.n is None else body.n
    params = _params(service, body, n=n, max_tokens=max_tokens, logprobs=num_top)
    ids = await service.encode_chat([message.plain() for message in body.messages])
    grammar = await _grammar(service, body)
    job = service.open(request, "/v1/chat/completions", [ids], params, grammar)
    name = "chat.completion.chunk" if body.stream else "chat.completion"
    reply = Reply(job, "chatcmpl", name, service.settings.model_name)
    greeted: set[int] = set()

    def entry(index: int, delta: Delta, key: str, message: Json) -> Json:
        logprobs = None
        if num_top is not None:
            logprobs = answers.chat_logprobs(service.llm.tokenizer, delta, num_top)
        reason = answers.finish_reason(delta.finish_reason)
        return {"index": index, key: message, "logprobs": logprobs, "finish_reason": reason}

    def chunk(index: int, delta: Delta) -> Json:
        message: Json = {} if index in greeted else {"role": "assistant"}
        greeted.add(index)
        if delta.text or message:
            message["content"] = delta.text
        return entry(index, delta, "delta", message)

    def whole(index: int, delta: Delta) -> Json:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return entry(index, delta, "message", message)

    return await _respond(request, body, reply, chunk, whole)


class Reply:
    """What all chunks of one answer have in common."""

    def __init__(
        self, job: Job, prefix: str, name: str, model_name: str, *, prompt_only: bool = False
    ) -> None:
        self.job = job
        self._prompt_only = prompt_only
        self._head = {
            "id": f"{prefix}-{job.id}",
            "object": name,
            "created": int(time.time()),
            "model": model_name,
        }

    @property
    def sequences(self) -> list[Sequence]:
        return self.job.sequences

    def body(self, choices: list[Json], **more: Any) -> Json:
        return {**self._head, "choices": choices, **more}

    def totals(self) -> Json:
        n = self.sequences[0].params.n
        usage = answers.usage(self.sequences, n)
        if self._prompt_only:  # the token that ended it is not shown
            usage.update(completion_tokens=0, total_tokens=usage["prompt_tokens"])
        return {"usage": usage, "timings": answers.timings(self.sequences)}


async def _respond(
    request: Request, body: ChoicesBody, reply: Reply, chunk: Choice, whole: Choice
) -> JSONResponse | EventStream:
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(reply, chunk, wants_usage)
        return EventStream(reply.job.service.settings, events, reply.job.close)
    try:
        await reply.job.complete(request)
        cursors = [Cursor(sequence) for sequence in reply.sequences]
        choices = [whole(index, cursor.advance()) for index, cursor in enumerate(cursors)]
        return JSONResponse(reply.body(choices, **reply.totals()))
    except ApiError as error:
        reply.job.close(f"error {error.status}")
        raise
    finally:
        reply.job.close()


async def _events(reply: Reply, chunk: Choice, wants_usage: bool) -> AsyncIterator[ServerSentEvent]:
    """Chunks as they come, each choice's last with its finish_reason; then usage, then [DONE]."""
    cursors = [Cursor(sequence) for sequence in reply.sequences]
    # Asked for usage, OpenAI sends it with every chunk: null, until the last one.
    nothing_yet: Json = {"usage": None} if wants_usage else {}
    job = reply.job
    try:
        async for _ in job.progress():
            news = [(index, cursor.advance()) for index, cursor in enumerate(cursors)]
            for index, delta in news:
                if not delta:
                    continue
                last = {"timings": reply.totals()["timings"]} if job.ticket.finished else {}
                yield _data(reply.body([chunk(index, delta)], **nothing_yet, **last))
        if wants_usage:
            yield _data(reply.body([], **reply.totals()))
        yield event("[DONE]")
    except ApiError as error:
        job.close(f"error {error.status}")
        yield _data(error.body())
    finally:
        job.close()


def _data(body: Json) -> ServerSentEvent:
    return event(json.dumps(body, ensure_ascii=False))


def _model(service: Service) -> Json:
    return {
        "id": service.settings.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "llama-cu",
        "max_model_len": service.llm.max_model_len,
    }


def check_model(service: Service, name: str) -> None:
    if name != service.settings.model_name:
        raise ApiError(
            404,
            f"the model {name!r} is not here; this server has {service.settings.model_name!r}",
            param="model",
            code="model_not_found",
        )


def _params(service: Service, body: ChoicesBody, **more: Any) -> SamplingParams:
    params = sampling_params(service, body, **more)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")
    return params


def sampling_params(service: Service, body: SamplingBody, **more: Any) -> SamplingParams:
    """What the body and `more` say over the model's defaults. ApiError 404 for another model."""
    check_model(service, body.model)
    try:
        return body.sampling_params(service.llm.default_params(), **more)
    except ValueError as error:
        raise bad_request(error) from error


async def _grammar(service: Service, body: ChoicesBody) -> Grammar | None:
    form = body.response_format
    return None if form is None else await grammar_of(service, form.wanted, "response_format")


async def grammar_of(
    service: Service, wanted: Callable[[], dict[str, Any] | None], name: str
) -> Grammar | None:
    """The grammar of the schema that a field wants, if any.

    ApiError 400 with the field's name where it does not say which, or nothing can follow it.
    """
    try:
        schema = wanted()
    except ValueError as error:
        raise ApiError(400, str(error), param=name) from error
    if schema is None:
        return None
    if service.grammars is None:
        raise ApiError(400, f"{name} needs a tokenizer, and the model has none", param=name)
    try:
        return await service.grammars.of_schema(schema)
    except ValueError as error:
        message = f"{name}: the schema cannot be followed: {error}"
        raise ApiError(400, message, param=name) from error


def _num_top_logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    if not body.logprobs:
        return None
    return checked_num_top(body.top_logprobs)


def checked_num_top(given: int | None) -> int:
    """How many of the likeliest tokens are wanted beside each; ApiError 400 for too many."""
    num_top = given or 0
    if not 0 <= num_top <= _MOST_TOP_LOGPROBS:
        raise ApiError(
            400, f"top_logprobs must be in [0, {_MOST_TOP_LOGPROBS}], got {num_top}",
            param="top_logprobs",
        )  # fmt: skip
    return num_top


async def _echoes(service: Service, body: CompletionBody, prompts: list[list[int]]) -> list[str]:
    """Each prompt's text where it is to be repeated in front of its answer."""
    if not body.echo:
        return [""] * len(prompts)
    tokenizer = service.llm.tokenizer
    if tokenizer is None:
        raise ApiError(400, "echo needs a tokenizer, and the model has none", param="echo")
    given = zip(body.prompts(), prompts, strict=True)
    return [text if isinstance(text, str) else tokenizer.decode(ids) for text, ids in given]
