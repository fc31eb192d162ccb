"""Checks of what is read from YAML. Every refusal names the place, the key and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 1e6  # of any number: beyond, units would leave what floats tell apart


class ScenarioError(ValueError):
    """A scenario or unit that cannot be fought; the message names file and key."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest known word, or nothing."""
    by_lower_case = {name.lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[match[0]]}?)" if match else ""


def check_keys(entry: Any, where: str, required: Iterable[str], known: list[str] | None) -> None:
    """Refuses what is no mapping, lacks a required key or has one that is not known (None: any)."""
    if not isinstance(entry, Mapping):
        raise ScenarioError(f"{where}: expected a mapping, got {entry!r}")
    unknown = [str(key) for key in entry if known is not None and key not in known]
    for key in required:
        if key not in entry:
            written = difflib.get_close_matches(key, unknown, n=1)
            raise ScenarioError(f"{where}: missing key {key!r}{f' (written {written[0]!r}?)' if written else ''}")
    if known is not None and unknown:
        raise ScenarioError(
            f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}; known: {', '.join(known)}"
        )


def word(value: Any, where: str, known: Iterable[str] | None) -> Any:
    """The value, if it is one of the known words (None: any word)."""
    if not isinstance(value, str) or (known is not None and value not in known):
        allowed = f"{nearest(value, known)}; known: {', '.join(known)}" if known is not None else "; expected a word"
        raise ScenarioError(f"{where}: unknown value {value!r}{allowed}")
    return value


def number(value: Any, where: str, most: float = MOST) -> float:
    """The value, if it is a finite number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        too_large = isinstance(value, int | float) and most < value < math.inf
        span = f"from 0 to {most:g}" if most != MOST or too_large else "of at least 0"
        raise ScenarioError(f"{where}: expected a number {span}, got {value!r}")
    return float(value)


def count(value: Any, where: str, most: int) -> int:
    """The value, if it is a whole number from 1 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        too_large = isinstance(value, int) and value > most
        span = f"from 1 to {most}" if too_large else "of at least 1"
        raise ScenarioError(f"{where}: expected a whole number {span}, got {value!r}")
    return value


def bounds(value: Any, where: str, most: int) -> tuple[int, int]:
    """The value, if it is a list of two whole numbers from -most to ``most``, the lower one first."""
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or not all(type(n) is int and abs(n) <= most for n in numbers) or numbers[0] > numbers[1]:
        raise ScenarioError(
            f"{where}: expected [least, most], whole numbers from -{most} to {most} in this order, got {value!r}"
        )
    return numbers[0], numbers[1]


def point(value: Any, where: str) -> tuple[float, float]:
    """The value, if it is a list of two numbers of at least 0."""
    if not isinstance(value, list) or len(value) != 2:
        raise ScenarioError(f"{where}: expected [x, y], got {value!r}")
    return number(value[0], where), number(value[1], where)
