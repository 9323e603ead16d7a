"""Turns tokens into text that may be shown, and finds stop strings across token borders."""

from __future__ import annotations


class StopStrings:
    """Lets text through, but for what could still become a stop string.

    `push` returns the text that is certain; after a match `matched` is set and nothing that
    stands from the stop string on is ever returned. A stop string that is complete while it may not
    end the text is text like any other; one that only began by then counts.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str, *, may_end: bool = True) -> str:
        if not self._stops or self.matched is not None:
            return piece if self.matched is None else ""
        text, num_held = self._held + piece, len(self._held)
        found = []
        for stop in self._stops if may_end else ():
            # One that was complete in what is held back came while it could not end the text.
            at = text.find(stop, max(0, num_held + 1 - len(stop)))
            if at >= 0:
                found.append((at, stop))
        if found:
            # The one that is complete first, so that it does not matter how the text was cut.
            start, self.matched = min(found, key=lambda match: (match[0] + len(match[1]), match))
            self._held = ""
            return text[:start]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that begins stop, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
