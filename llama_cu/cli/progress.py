"""A one-line progress bar on stderr, for waits that a person would notice."""

from __future__ import annotations

import shutil
import sys
import time

from llama_cu.cli.terminal import display_width, on_terminal

_SHOW_AFTER_S = 0.3
_REDRAW_S = 0.05
_BAR_WIDTH = 20


class ProgressBar:
    """Call it as progress(what, done, total); leave the `with` block to wipe it away.

    Nothing is drawn where stderr is no terminal, or when all is done within a moment.
    """

    def __init__(self) -> None:
        self._visible = on_terminal(sys.stderr)
        self._start_s = time.monotonic()
        self._drawn_s = 0.0
        self._drawn = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if not self._visible or now_s - self._start_s < _SHOW_AFTER_S:
            return
        if done < total and now_s - self._drawn_s < _REDRAW_S:
            return
        self._drawn_s, self._drawn = now_s, True
        line = progress_line(what, done, total, width=shutil.get_terminal_size().columns - 1)
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()


def progress_line(what: str, done: int, total: int, *, width: int) -> str:
    """A bar with its name and percentage, within `width` columns; a bare name for no total."""
    if total <= 0:
        return what[:width]
    share = min(done / total, 1.0)
    filled = round(share * _BAR_WIDTH)
    tail = f" {share:4.0%}"
    bar = f" [{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]{tail}"
    short = bar if display_width(what) + len(bar) <= width else tail
    return what[: max(width - len(short), 0)] + short
