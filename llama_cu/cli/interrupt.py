"""Ctrl-C while an answer streams: the first press asks it to stop, the second is an exception."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class CtrlC:
    """While the `with` block is open, `pressed` says whether Ctrl-C came.

    A step of the engine is never torn apart: whoever holds this looks at `pressed` between two
    pieces. A second press raises KeyboardInterrupt, for a step that takes too long.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._previous: Any = None

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
