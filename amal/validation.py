"""Checks of constructor arguments: one line that names the argument, what is allowed and what came."""

LARGEST_SEED = 2**32 - 1  # that Lightning takes


def check_at_least(lowest: float, **arguments: float) -> None:
    """Raise ValueError for the first argument below ``lowest`` (or NaN)."""
    for name, value in arguments.items():
        if not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def check_positive(**arguments: float) -> None:
    """Raise ValueError for the first argument that is not greater than 0."""
    for name, value in arguments.items():
        if not value > 0.0:
            raise ValueError(f"{name} must be greater than 0, got {value}")


def check_share(**arguments: float) -> None:
    """Raise ValueError for the first argument outside [0, 1]."""
    for name, value in arguments.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_choice(allowed: tuple[str, ...], **arguments: str) -> None:
    """Raise ValueError for the first argument that is not one of ``allowed``."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
