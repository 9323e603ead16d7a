"""Paths as the user's system and the user have them."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """$XDG_CACHE_HOME, or .cache in the home folder. RuntimeError where the user has none."""
    own = os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else Path.home() / ".cache"


def user_path(name: str) -> Path:
    """The path that a person wrote, where ~ is a home folder; a ~ of nobody stands for itself."""
    return Path(os.path.expanduser(name))
