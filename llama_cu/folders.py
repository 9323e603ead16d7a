"""Where the user's system keeps what programs can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """$XDG_CACHE_HOME, or .cache in the home folder. RuntimeError where the user has none."""
    own = os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else Path.home() / ".cache"
