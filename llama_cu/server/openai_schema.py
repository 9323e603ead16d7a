"""The bodies of OpenAI's API, field by field. A field that is not here is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama_cu.sampling_params import MAX_SEED, SamplingParams

# Messages, parts or prompts in one list. Each is an object to be made: for a body of 4 MB, which
# has 150,000, everybody else waited for more than a second.
MOST_ITEMS = 1 << 14

# Of a million wrong entries one is enough: to describe them all takes half a minute.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True, max_length=MOST_ITEMS)]

_MOST_STOPS = 64  # each is looked for behind every token

ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Body(BaseModel):
    """An object of a request. A field that is null is as good as not there: clients send those."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        present = {name: value for name, value in given.items() if value is not None}
        known = {field.alias or name for name, field in cls.model_fields.items()}
        # One unknown field is enough to refuse a body; each would cost time.
        for name in [name for name in present if name not in known][1:]:
            del present[name]
        return present


class StreamOptions(Body):
    include_usage: bool = False


class JsonSchema(Body):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that answers have to follow, if any. ValueError where fields disagree."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            rule = "must be there exactly when the type is json_schema"
            raise ValueError(f"response_format: json_schema {rule}, got type {self.type}")
        if self.json_schema is not None:
            if self.json_schema.schema_ is None:
                raise ValueError("response_format: json_schema has no schema")
            return self.json_schema.schema_
        return None if self.type == "text" else ANY_OBJECT


class SamplingBody(Body):
    """What all endpoints have. Null means: as the model's generation_config.json says."""

    model: str
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    user: str | None = None

    def sampling_params(self, defaults: SamplingParams, **more: Any) -> SamplingParams:
        """The given fields over the defaults. ValueError with name, rule and value."""
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "min_tokens",
                "presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos",
            )
        }  # fmt: skip
        given["seed"] = None if self.seed is None else self.seed & MAX_SEED
        if isinstance(self.stop, list) and len(self.stop) > _MOST_STOPS:
            raise ValueError(f"stop must hold at most {_MOST_STOPS}, got {len(self.stop)}")
        if self.logit_bias is not None:
            given["logit_bias"] = {_token_id(key): bias for key, bias in self.logit_bias.items()}
        given = {name: value for name, value in given.items() if value is not None}
        return replace(defaults, **given, **more)


class ChoicesBody(SamplingBody):
    """What the endpoints have that may give several answers to one prompt."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None


class CompletionBody(ChoicesBody):
    prompt: (
        str
        | Texts
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True, max_length=MOST_ITEMS)]
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    logprobs: int | None = None
    best_of: int | None = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt: a text or token ids."""
        prompt: Any = self.prompt
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        return list(prompt) if several else [prompt]


class Part(Body):
    """A piece of what somebody said."""

    text: str


class TextPart(Part):
    type: Literal["text"]


Nothing = Annotated[list[Any], Field(max_length=0)]
"""A list that only an empty one is taken for: clients send those where they want nothing of it."""


def plain_message(role: str, content: str | Sequence[Part]) -> dict[str, str]:
    """As chat templates take it: a role and one text, whose parts are on lines of their own.

    So do the servers of vLLM and llama.cpp; without a border two words would become one.
    """
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    return {"role": "system" if role == "developer" else role, "content": content}


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True, max_length=MOST_ITEMS)]
    name: str | None = None
    type: Literal["text"] | None = None
    tool_call_id: str | None = None
    tool_calls: Nothing | None = None
    annotations: Nothing | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        names = {"name": self.name, "tool_call_id": self.tool_call_id}
        given = {name: value for name, value in names.items() if value is not None}
        return {**plain_message(self.role, self.content), **given}


class ChatBody(ChoicesBody):
    """A chat. Of what is not here (tools, storage, audio) the values that do not ask for it."""

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)
    ]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    # Labels, and wishes that are fulfilled as it is: clients send these, and they change no answer.
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class TokenizeBody(Body):
    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(max_length=MOST_ITEMS, fail_fast=True)] | None = (
        None
    )
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    model: str | None = None
    tokens: TokenIds


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit()):
        raise ValueError(f"logit_bias must map token ids to numbers, got the key {key!r}")
    return int(key)
