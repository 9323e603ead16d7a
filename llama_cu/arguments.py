"""Checks of arguments: a wrong one is a ValueError with name, rule and value."""

from __future__ import annotations

import math
import numbers
from typing import Any


def check_number(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    """A real number from `low` (not included where `open_low`) to `high`."""
    rule = f"must be in {'(' if open_low else '['}{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} {rule}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # beyond all floats, and so beyond the range too
        number = math.inf
    above = number > low if open_low else number >= low
    if math.isnan(number) or not above or number > high:
        raise ValueError(f"{name} {rule}, got {value!r}")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """A whole number of at least `low`, and of at most `high`."""
    rule = f"must be an integer of at least {low}" + ("" if high is None else f", at most {high}")
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} {rule}, got {value!r}")
    if int(value) < low or (high is not None and int(value) > high):
        raise ValueError(f"{name} {rule}, got {value!r}")
