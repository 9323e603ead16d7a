"""Typed reading of JSON objects: a wrong value is a ModelError with file, field and value."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from llama_cu.errors import ModelError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. ModelError where there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


class Fields:
    """The fields of one JSON object. A field that is absent or null takes the default.

    A field without default is required.
    """

    def __init__(self, source: str, values: dict[str, Any]) -> None:
        self.source = source
        self.values = values

    def refuse(self, name: str, rule: str) -> ModelError:
        """The error for a field, to be raised by the caller: `source: name rule, got value`."""
        return ModelError(f"{self.source}: {name} {rule}, got {json.dumps(self.values.get(name))}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; JSON's 4.0 and true are refused."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            rule = "a positive integer" if minimum == 1 else f"an integer of at least {minimum}"
            raise self.refuse(name, f"must be {rule}")
        return value

    def number(
        self, name: str, default: float | None = None, *, minimum: float = 0.0, above: bool = True
    ) -> float:
        """A finite number above `minimum` (at least `minimum` where not `above`)."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(name, "must be a number")
        in_range = value > minimum if above else value >= minimum
        if not (in_range and value <= sys.float_info.max):
            bound = "above" if above else "at least"
            raise self.refuse(name, f"must be a finite number {bound} {minimum:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A JSON boolean."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A JSON string."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, "must be a string")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """An id or a list of ids, none negative, as a tuple; empty where absent."""
        value = self.values.get(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in listed):
            raise self.refuse(name, "must be a token id or a list of token ids")
        return tuple(listed)

    def nested(self, name: str) -> Fields | None:
        """A JSON object inside this one, or None where it is absent, null or empty."""
        value = self.values.get(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, "must be a JSON object")
        return Fields(f"{self.source}: {name}", value)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise ModelError(f"{self.source}: {name} is required and missing")
        return default
