"""Constructor arguments as plain data, as checkpoints and loggers take them."""

from __future__ import annotations

import functools
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

NOT_RECORDED = "not_recorded"  # key in place of a value that has no plain form


def plain(value: Any) -> Any:
    """Numbers, texts, lists and mappings as they are; classes as ``class_path`` with ``init_args``, parts as mappings.

    Anything else, a function of a script for instance, becomes ``{"not_recorded": what it was}``.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if inspect.isclass(value) and "<locals>" not in value.__qualname__:
        return {"class_path": f"{value.__module__}.{value.__qualname__}"}
    if isinstance(value, functools.partial) and inspect.isclass(value.func) and not value.args:
        return {**plain(value.func), "init_args": plain(value.keywords)}
    if is_dataclass(value) and not inspect.isclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return {NOT_RECORDED: f"{type(value).__name__} {getattr(value, '__qualname__', '')}".strip()}


def not_recorded(arguments: dict[str, Any]) -> list[str]:
    """The names of the arguments that have no plain form, at any depth."""

    def has_gap(value: Any) -> bool:
        if isinstance(value, dict):
            return NOT_RECORDED in value or any(map(has_gap, value.values()))
        return isinstance(value, list) and any(map(has_gap, value))

    return [name for name, value in arguments.items() if has_gap(value)]
