"""The body of OpenAI's Responses API. A field that is not here is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llama_cu.server.openai_schema import (
    ANY_OBJECT,
    MOST_ITEMS,
    Body,
    Nothing,
    Part,
    SamplingBody,
    plain_message,
)

LOGPROBS = "message.output_text.logprobs"


class ContentPart(Part):
    """Answers that are sent back have labels of their own."""

    type: Literal["input_text", "output_text", "text"]
    annotations: Nothing | None = None
    logprobs: list[Any] | None = None


class InputItem(Body):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True, max_length=MOST_ITEMS)]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        return plain_message(self.role, self.content)


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that answers have to follow, if any. ValueError where fields disagree."""
        if (self.type == "json_schema") != (self.schema_ is not None):
            rule = "must be there exactly when the type is json_schema"
            raise ValueError(f"text.format: schema {rule}, got type {self.type}")
        return ANY_OBJECT if self.type == "json_object" else self.schema_


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesStreamOptions(Body):
    include_obfuscation: Literal[False] | None = None


class ResponsesBody(SamplingBody):
    """A conversation to go on with. Nothing is stored, so the whole of it has to be sent."""

    input: (
        str | Annotated[list[InputItem], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = None
    # Labels, and wishes that are fulfilled as it is: clients send these, and they change no answer.
    stream_options: ResponsesStreamOptions | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    def form(self) -> TextFormat:
        """What the answer's text has to be."""
        given = None if self.text is None else self.text.format
        return given or TextFormat(type="text")

    def messages(self) -> list[dict[str, str]]:
        """The conversation as chat templates take it, the instructions in front."""
        said = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*said, {"role": "user", "content": self.input}]
        return [*said, *(item.plain() for item in self.input)]
