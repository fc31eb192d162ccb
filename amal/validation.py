"""Checks of constructor arguments: one line that names the argument, what is allowed and what came."""

import math
from collections.abc import Mapping

LARGEST_SEED = 2**32 - 1  # that Lightning takes


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


def _check_finite(arguments: Mapping[str, float]) -> None:
    for name, value in arguments.items():
        if value is None or math.isinf(value):  # jsonargparse takes null for any type
            raise ValueError(f"{name} must be a finite number, got {'null' if value is None else value}")


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
