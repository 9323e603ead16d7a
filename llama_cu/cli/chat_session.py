"""What a chat remembers: turns, system prompt, sampling options. No terminal, no model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cu.sampling_params import SamplingParams

Messages = list[Mapping[str, Any]]

FILE_FORMAT = "llama-cu chat 1"
# Names that /set takes, and what their values are.
OPTIONS: dict[str, type] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "max_tokens": int,
    "seed": int,
}


@dataclass(frozen=True)
class Turn:
    user: str
    assistant: str


@dataclass
class ChatSession:
    """One conversation. Whatever raises leaves it as it was."""

    defaults: dict[str, Any] = field(default_factory=dict)  # the model's own sampling options
    options: dict[str, Any] = field(default_factory=dict)  # what the user chose over them
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    num_dropped: int = 0  # oldest turns that no longer fit; saved, but not shown to the model
    file: Path | None = None  # where the conversation was saved to or loaded from
    unsaved: bool = False

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**{**self.defaults, **self.options})

    def messages(self, user: str | None = None) -> Messages:
        """What the model sees: system prompt, turns, and the new message of the user."""
        messages = _messages(self.system, self.turns[self.num_dropped :])
        return messages if user is None else [*messages, {"role": "user", "content": user}]

    def add(self, user: str, assistant: str) -> None:
        self.turns.append(Turn(user, assistant))
        self.unsaved = True

    def undo(self) -> Turn:
        """Take back the last turn. Raises ValueError when there is none."""
        if not self.turns:
            raise ValueError("there is no turn to take back")
        self.unsaved = True
        turn = self.turns.pop()
        self.num_dropped = min(self.num_dropped, len(self.turns))
        return turn

    def clear(self) -> None:
        """Forget the turns; the system prompt and the options stay."""
        self.turns.clear()
        self.num_dropped, self.file, self.unsaved = 0, None, False

    def set_system(self, text: str | None) -> None:
        self.system = text
        self.unsaved = bool(self.turns)

    def set_option(self, name: str, value: str) -> None:
        """Choose a sampling option; `default` gives it back to the model. ValueError if wrong."""
        if name not in OPTIONS:
            raise ValueError(f"{name} is no option; there are {', '.join(OPTIONS)}")
        changed = {key: old for key, old in self.options.items() if key != name}
        if value != "default":
            changed[name] = _parse(name, value)
        SamplingParams(**{**self.defaults, **changed})
        self.options = changed

    def make_room(self, user: str, count: Callable[[Messages], int], limit: int) -> int:
        """Drop the oldest turns until the message and an answer fit; how many were dropped.

        `count` gives the tokens of messages, `limit` is the context. A quarter of it, or
        max_tokens if that is less, is kept for the answer. Raises ValueError, and drops
        nothing, when the message cannot fit even alone.
        """
        reserve = max(1, min(self.params.max_tokens or limit, limit // 4))
        before = self.num_dropped
        while self.num_dropped < len(self.turns) and count(self.messages(user)) + reserve > limit:
            self.num_dropped += 1
        num_tokens = count(self.messages(user))
        if num_tokens >= limit:
            self.num_dropped = before
            raise ValueError(
                f"the message is too long: {num_tokens} tokens with the system prompt, "
                f"and the context holds {limit}"
            )
        return self.num_dropped - before

    def save(self, path: Path, *, model: str) -> None:
        """Write the conversation as JSON, all or nothing.

        Raises ValueError for a file that exists and is not this conversation's own.
        """
        if path.exists() and (self.file is None or not path.samefile(self.file)):
            raise ValueError(f"{path} exists and is not this conversation; choose another name")
        content = {
            "format": FILE_FORMAT,
            "model": model,
            "options": self.options,
            "messages": _messages(self.system, self.turns),
        }
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent} is not a folder")
        _write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        self.file, self.unsaved = path, False

    def load(self, path: Path) -> None:
        """Take up a saved conversation. Raises ValueError for a file that is none."""
        if self.unsaved and self.turns:
            raise ValueError("this conversation is not saved: first /save FILE, or /clear")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a saved chat: {error}") from None
        try:
            system, turns, options = _parse_file(content)
            SamplingParams(**{**self.defaults, **options})
        except ValueError as error:
            raise ValueError(f"{path} is not a saved chat: {error}") from None
        self.system, self.turns, self.options = system, turns, options
        self.num_dropped = 0
        self.file, self.unsaved = path, False


def _messages(system: str | None, turns: list[Turn]) -> Messages:
    messages: Messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.assistant})
    return messages


def _parse(name: str, value: str) -> Any:
    if name in ("max_tokens", "seed") and value == "none":
        return None
    try:
        return OPTIONS[name](value)
    except ValueError:
        kind = "a whole number" if OPTIONS[name] is int else "a number"
        raise ValueError(f"{name} must be {kind}, got {value!r}") from None


def _parse_file(content: Any) -> tuple[str | None, list[Turn], dict[str, Any]]:
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise ValueError(f'"format" is not "{FILE_FORMAT}"')
    options, messages = content.get("options"), content.get("messages")
    if not isinstance(options, dict) or not set(options) <= set(OPTIONS):
        raise ValueError(f'"options" must be an object of {", ".join(OPTIONS)}')
    if not isinstance(messages, list):
        raise ValueError('"messages" must be a list')
    texts = [_text(message, index) for index, message in enumerate(messages)]
    system = texts.pop(0)[1] if texts and texts[0][0] == "system" else None
    roles = [role for role, _ in texts]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError('"messages" must be of user and assistant by turns')
    turns = [
        Turn(user, assistant)
        for (_, user), (_, assistant) in zip(texts[::2], texts[1::2], strict=True)
    ]
    return system, turns, options


def _text(message: Any, index: int) -> tuple[str, str]:
    fits = isinstance(message, dict) and isinstance(message.get("content"), str)
    if not fits or not isinstance(message.get("role"), str):
        raise ValueError(f"messages[{index}] must have role and content as strings")
    return message["role"], message["content"]


def _write_atomically(path: Path, text: str) -> None:
    """Write beside the file, then rename: a full disk or a crash leaves the old file."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
