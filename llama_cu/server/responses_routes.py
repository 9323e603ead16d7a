"""OpenAI's Responses API: one answer to a conversation, whole and as a stream of named events.

Nothing is kept between requests, as with `store: false`: a client sends the conversation so far.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent

from llama_cu.sampling_params import SamplingParams
from llama_cu.server import openai_answers as answers
from llama_cu.server.errors import ApiError
from llama_cu.server.events import EventStream, event
from llama_cu.server.openai_answers import Cursor, Json
from llama_cu.server.openai_routes import checked_num_top, grammar_of, sampling_params
from llama_cu.server.responses_schema import LOGPROBS, ResponsesBody
from llama_cu.server.service import Job, Service

router = APIRouter(prefix="/v1")


@router.post("/responses", response_model=None)
async def responses(request: Request, body: ResponsesBody) -> JSONResponse | EventStream:
    service: Service = request.app.state.service
    num_top = _num_top_logprobs(body)
    params = sampling_params(service, body, max_tokens=body.max_output_tokens, logprobs=num_top)
    ids = await service.encode_chat(body.messages(), "input")
    grammar = await grammar_of(service, body.form().wanted, "text.format")
    job = service.open(request, "/v1/responses", [ids], params, grammar)
    response = Response(job, body, params)
    if body.stream:
        return EventStream(service.settings, _events(response), job.close)
    try:
        await job.complete(request)
        response.advance()
        return JSONResponse(response.whole())
    except ApiError as error:
        job.close(f"error {error.status}")
        raise
    finally:
        job.close()


class Response:
    """One answer as it grows: the response object, and the message that is its only output."""

    def __init__(self, job: Job, body: ResponsesBody, params: SamplingParams) -> None:
        self.job = job
        self.item_id = f"msg_{job.id}"
        self.status = "in_progress"
        self.text = ""
        self._logprobs: list[Json] = []
        self._cursor = Cursor(job.sequences[0])
        self._body = body
        self._params = params
        self._created = int(time.time())

    def advance(self) -> tuple[str, list[Json]]:
        """What came since the last call: text, and its tokens' log probabilities if asked for."""
        delta = self._cursor.advance()
        logprobs: list[Json] = []
        if self._params.logprobs is not None:
            tokenizer = self.job.service.llm.tokenizer
            shown = answers.chat_logprobs(tokenizer, delta, self._params.logprobs)
            logprobs = shown["content"]
        self.text += delta.text
        self._logprobs += logprobs
        if delta.finish_reason is not None:
            self.status = "incomplete" if delta.finish_reason == "length" else "completed"
        return delta.text, logprobs

    def part(self) -> Json:
        text, logprobs = self.text, self._logprobs
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def item(self, content: list[Json]) -> Json:
        message = {"id": self.item_id, "type": "message", "role": "assistant"}
        return {**message, "status": self.status, "content": content}

    def whole(self, error: Json | None = None) -> Json:
        """The response object: with the answer once it has ended, or the error it ended in."""
        body, params = self._body, self._params
        ended = self.status in ("completed", "incomplete")
        return {
            "id": f"resp_{self.job.id}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "status": "failed" if error else self.status,
            "error": error,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if self.status == "incomplete" else None
            ),
            "model": self.job.service.settings.model_name,
            "output": [self.item([self.part()])] if ended else [],
            "usage": _usage(self.job) if ended else None,
            **({"timings": answers.timings(self.job.sequences)} if ended else {}),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_logprobs": params.logprobs or 0,
            "text": {"format": body.form().model_dump(by_alias=True, exclude_none=True)},
            "metadata": body.metadata or {},
            "user": body.user,
            "previous_response_id": None,
            "store": False,
            "background": False,
            "truncation": "disabled",
            "tools": [],
            "tool_choice": body.tool_choice or "auto",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
        }


async def _events(response: Response) -> AsyncIterator[ServerSentEvent]:
    """The answer's events: it begins, its text comes, its parts are closed, it ends."""
    job = response.job
    number = 0

    def told(name: str, **fields: Any) -> ServerSentEvent:
        nonlocal number
        body = {"type": name, "sequence_number": number, **fields}
        number += 1
        return event(json.dumps(body, ensure_ascii=False), name)

    place = {"output_index": 0, "item_id": response.item_id, "content_index": 0}
    try:
        yield told("response.created", response=response.whole())
        yield told("response.in_progress", response=response.whole())
        yield told("response.output_item.added", output_index=0, item=response.item([]))
        yield told("response.content_part.added", **place, part=response.part())
        async for _ in job.progress():
            text, logprobs = response.advance()
            if text or logprobs:
                yield told("response.output_text.delta", **place, delta=text, logprobs=logprobs)
        part = response.part()
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        yield told("response.output_text.done", **place, **done)
        yield told("response.content_part.done", **place, part=part)
        yield told("response.output_item.done", output_index=0, item=response.item([part]))
        yield told(f"response.{response.status}", response=response.whole())
    except ApiError as error:
        job.close(f"error {error.status}")
        reason = {"code": error.code or "server_error", "message": error.message}
        yield told("response.failed", response=response.whole(reason))
    finally:
        job.close()


def _usage(job: Job) -> Json:
    counts = answers.usage(job.sequences, 1)
    return {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": counts["prompt_tokens_details"],
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }


def _num_top_logprobs(body: ResponsesBody) -> int | None:
    num_top = checked_num_top(body.top_logprobs)
    if LOGPROBS in (body.include or ()):
        return num_top
    if num_top:
        message = f"top_logprobs needs include to have {LOGPROBS}"
        raise ApiError(400, message, param="top_logprobs")
    return None
