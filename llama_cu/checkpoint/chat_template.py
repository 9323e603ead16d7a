"""Chat templates: code that came with a checkpoint, so run in jinja2's sandbox.

The environment is the one that transformers gives them. Imported late: jinja2 takes its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llama_cu.errors import ModelError, RequestError

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Compiling takes a second for each few hundred thousand characters; real ones have some thousands.
_MOST_CHARACTERS = 1 << 17

# What a template's own code can raise on messages that it was not written for.
_TEMPLATE_FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    source: str,
    variables: Mapping[str, Any],
) -> str:
    """The messages as one text. `source` says in errors where the template came from.

    ModelError for a template that is not jinja2, is oversized or calls itself without end,
    RequestError for messages that it refuses or stumbles over.
    """
    if len(template) > _MOST_CHARACTERS:
        raise ModelError(
            f"{source}: chat template: expected at most {_MOST_CHARACTERS} characters, "
            f"found {len(template)}"
        )
    try:
        compiled = _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"{source}: chat template, line {error.lineno}: {error.message}"
        ) from error
    # From Python's own parser and compiler, which take what jinja2 has made.
    except (RecursionError, SyntaxError, MemoryError) as error:
        raise ModelError(f"{source}: chat template: nested too deeply: {error}") from error
    # As in transformers 5: templates expect a key to be absent, and would write "None".
    plain = [
        {name: value for name, value in message.items() if value is not None}
        for message in messages
    ]
    try:
        return compiled.render({**variables, "messages": plain})
    except jinja2.TemplateError as error:
        raise RequestError(f"{source}: chat template: {error.message}") from error
    except RecursionError as error:
        raise ModelError(f"{source}: chat template: it calls itself without end") from error
    except _TEMPLATE_FAULTS as error:
        raise RequestError(f"{source}: chat template: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


class _GenerationTag(Extension):
    """{% generation %} marks the assistant's text for training; here only its body matters."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # what is set inside is not seen outside


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes for HTML, which a model has never seen
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
