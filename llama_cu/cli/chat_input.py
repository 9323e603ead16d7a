"""Where a chat's messages come from: a person at a terminal, or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from llama_cu.cli.terminal import note, on_terminal

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

QUOTES = '"""'


class Reader(Protocol):
    """Raises EOFError at the end of input, KeyboardInterrupt at Ctrl-C."""

    person: bool  # somebody is typing

    def read_line(self, *, more: bool) -> str:
        """One line without its end; `more` inside a multi-line message."""


class Message(NamedTuple):
    text: str
    quoted: bool  # between triple quotes: never a command


def read_message(reader: Reader) -> Message:
    """The next message: a line, or everything between two triple quotes."""
    line = reader.read_line(more=False)
    if not line.lstrip().startswith(QUOTES):
        return Message(line.strip(), quoted=False)
    text = line.lstrip()[len(QUOTES) :]
    while not text.rstrip().endswith(QUOTES):
        try:
            text += "\n" + reader.read_line(more=True)
        except EOFError:
            return Message(text.strip("\n"), quoted=True)
    return Message(text.rstrip()[: -len(QUOTES)].strip("\n"), quoted=True)


def open_reader() -> Reader:
    """Line editing and history where a person types, plain lines from anything else."""
    person = on_terminal(sys.stdin) and on_terminal(sys.stdout)
    return TerminalReader() if person else PipeReader(sys.stdin or ())


class PipeReader:
    """Lines of a pipe or a file; shows no prompt."""

    person = False

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def read_line(self, *, more: bool) -> str:
        try:
            line = next(self._lines, None)
        except OSError as error:  # it would fail again for ever
            self._lines = iter(())
            raise OSError(f"stdin cannot be read: {error.strerror or error}") from error
        if line is None:
            raise EOFError
        return line.rstrip("\r\n")


class TerminalReader:
    """prompt_toolkit: line editing, and a history that outlives the program."""

    person = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession

        self._session: PromptSession[str] = PromptSession(history=open_history())

    def read_line(self, *, more: bool) -> str:
        return self._session.prompt("... " if more else "> ")


def history_file() -> Path:
    """chat_history in the user's state folder. ValueError where the user has no home folder."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        raise ValueError("there is no home folder: set HOME or XDG_STATE_HOME") from None
    return Path(state) / "llama-cu" / "chat_history"


def open_history() -> History | None:
    """The history that outlives the program; None, which is one that does not, without a home."""
    try:
        return _history(history_file())
    except ValueError as error:
        note(f"history is not kept: {error}")
        return None


def _history(file: Path) -> History:
    """prompt_toolkit's file history; its folder is made with the first line."""
    from prompt_toolkit.history import FileHistory

    class LateFileHistory(FileHistory):
        writable = True

        def load_history_strings(self) -> Iterable[str]:
            try:
                return list(super().load_history_strings())
            except OSError as error:
                note(f"history cannot be read: {error}")
                return []

        def store_string(self, string: str) -> None:
            if not self.writable:
                return
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                super().store_string(string)
            except OSError as error:
                self.writable = False
                note(f"history is not kept: {error}")

    return LateFileHistory(str(file))
