"""What is written where: text to stdout, all else to stderr, colour and bars only on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import TextIO

# A longer run without a space (a URL, a script that has no spaces) is shown as it comes.
_LONGEST_HELD = 20
# Categories of characters without columns of their own: marks above others, joiners.
_NO_COLUMNS = ("Mn", "Me", "Cf")


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at the stream; None is a stream that was closed from the start."""
    return stream is not None and stream.isatty()


def dim(text: str, stream: TextIO) -> str:
    """The text in grey, where the stream is a terminal and NO_COLOR is not set."""
    plain = (
        not on_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    )
    return text if plain else f"\x1b[2m{text}\x1b[0m"


def note(text: str) -> None:
    """Dim lines on stderr, wrapped between words on a terminal."""
    if sys.stderr is None:
        return
    if on_terminal(sys.stderr):
        wrap = WordWrap(shutil.get_terminal_size().columns)
        text = wrap.push(text) + wrap.finish()
    print(dim(text, sys.stderr), file=sys.stderr, flush=True)


class TextWriter:
    """Text in pieces to stdout; on a terminal, lines break between words."""

    def __init__(self, stream: TextIO | None = None) -> None:
        if (stream or sys.stdout) is None:
            raise OSError("stdout is closed")
        self._stream = stream or sys.stdout
        width = shutil.get_terminal_size().columns if on_terminal(self._stream) else None
        self._wrap = WordWrap(width) if width else None
        self._ends_line = True

    def write(self, piece: str) -> None:
        """Show the piece; on a terminal its last word waits for the next piece."""
        self._emit(piece if self._wrap is None else self._wrap.push(piece))

    def end(self) -> None:
        """Show what waits, and end the line if it is open."""
        if self._wrap is not None:
            self._emit(self._wrap.finish())
        if not self._ends_line:
            self._emit("\n")

    def _emit(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()
            self._ends_line = text.endswith("\n")


class WordWrap:
    """Breaks lines between words so that none is wider than `width` columns."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._gap = ""
        self._word = ""

    def push(self, piece: str) -> str:
        """The text that is now certain to stand where it stands."""
        shown = ""
        for character in piece:
            if character == "\n":
                shown += self._place_word() + "\n"
                self._gap, self._column = "", 0
            elif character.isspace():
                shown += self._place_word()
                self._gap += character
            else:
                self._word += character
                if len(self._word) >= _LONGEST_HELD:
                    shown += self._place_word()
        return shown

    def finish(self) -> str:
        return self._place_word()

    def _place_word(self) -> str:
        word, gap = self._word, self._gap
        if not word:
            return ""
        self._word = self._gap = ""
        needed = display_width(gap) + display_width(word)
        if self._column and gap and self._column + needed > self._width:
            gap, self._column = "\n", 0
        else:
            self._column += display_width(gap)
        # A longer word is broken by the terminal; a full line stays full.
        self._column = (self._column + display_width(word) - 1) % self._width + 1
        return gap + word


def display_width(text: str) -> int:
    """Terminal columns of the text: 2 for wide characters, 0 for combining ones."""
    return sum(
        0
        if unicodedata.category(c) in _NO_COLUMNS
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )
