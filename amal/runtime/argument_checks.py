"""Checks of constructor arguments: one line that names the argument, what is allowed and what came."""

import math
import operator
from collections.abc import Mapping
from numbers import Real

LARGEST_SEED = 2**32 - 1  # that Lightning takes
LARGEST_COUNT = 2**53  # tables and shares of a budget hold counts as floats, which are exact up to here


def whole_number(text: str) -> int:
    """The whole number that a text names, also as 1e6. Raises ValueError if it is none."""
    try:
        return int(text)
    except ValueError:
        if not float(text).is_integer():
            raise
        return int(float(text))


def check_at_least(lowest: float, **arguments: float) -> None:
    """Raise ValueError for the first argument below ``lowest``, infinite or NaN."""
    _check_finite(arguments)
    for name, value in arguments.items():
        if not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def check_positive(**arguments: float) -> None:
    """Raise ValueError for the first argument that is not greater than 0, or is infinite."""
    _check_finite(arguments)
    for name, value in arguments.items():
        if not value > 0.0:
            raise ValueError(f"{name} must be greater than 0, got {value}")


def check_whole(lowest: int, highest: int | None = None, **arguments: object) -> None:
    """Raise ValueError for the first argument that is no whole number, of Python's or numpy's, or out of bounds."""
    for name, value in arguments.items():
        try:
            number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            number = None
        if number is None:
            raise ValueError(f"{name} must be a whole number, got {'null' if value is None else repr(value)}")
        if number < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {number}")
        if highest is not None and number > highest:
            raise ValueError(f"{name} must be at most {highest}, got {number}")


def check_flag(**arguments: object) -> None:
    """Raise ValueError for the first argument that is neither True nor False: 'no' would count as yes."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def _check_finite(arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Real) or isinstance(value, bool) or value in (math.inf, -math.inf):
            # jsonargparse takes null for any type
            raise ValueError(f"{name} must be a finite number, got {'null' if value is None else repr(value)}")


def check_share(**arguments: float) -> None:
    """Raise ValueError for the first argument outside [0, 1]."""
    _check_finite(arguments)
    for name, value in arguments.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_choice(allowed: tuple[str, ...], **arguments: str) -> None:
    """Raise ValueError for the first argument that is not one of ``allowed``."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
