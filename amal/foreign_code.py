"""Whose code a configuration may name.

A YAML file names classes, and jsonargparse imports what it names. What does not belong to this project, to torch's
networks and optimizers or to Lightning is code of a stranger, which nothing here runs unless the person at the
keyboard said so: the permission is given on the command line, never in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings

OPTION = "--allow_code"
KNOWN = ("amal", "callbacks", "datamodules", "lightning", "torch.nn", "torch.optim")
RUNS_FILES = "amal.epymarl"  # to be reached through EPyMARLCritic only, whose source is looked at


_allowed: list[str] | None = None  # in this process; None before anybody was asked


class ForeignCode(ValueError):
    """Code that nobody has allowed; the message is one line and tells how to."""

    def __init__(self, name: str, location: str) -> None:
        super().__init__(f"{name} is code from outside the project; if you trust it, add {OPTION} {location}")


def taken_permissions(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other arguments, what ``--allow_code NAME`` or ``--allow_code=NAME`` among them allow)."""
    others: list[str] = []
    allowed: list[str] = []
    words = iter(args)
    for word in words:
        if word == OPTION:
            allowed.append(next(words, ""))
        elif word.startswith(OPTION + "="):
            allowed.append(word.partition("=")[2])
        else:
            others.append(word)
    return others, allowed


def allow_only(allowed: Sequence[str]) -> None:
    """Lets jsonargparse import what is known and what is allowed, from now on in this process.

    Args:
        allowed: packages or modules with all that is below them, or files that end in .py.

    Raises:
        ValueError: one of them is neither.
    """
    global _allowed
    for name in allowed:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) and not name.endswith(".py"):
            raise ValueError(f"{OPTION} takes a package, a module or a file that ends in .py, got {name!r}")
    modules = [name for name in allowed if not name.endswith(".py")]
    _allowed = list(allowed)
    set_parsing_settings(import_path_denylist=["*", RUNS_FILES], import_path_allowlist=[*KNOWN, *modules])


def permissions() -> list[str]:
    """What is allowed in this process: nothing, unless ``allow_only`` was told otherwise."""
    if _allowed is None:
        allow_only(())
    return _allowed or []


def check_sources(config: Any) -> None:
    """Raises ForeignCode for the first EPyMARLCritic in a configuration whose ``source`` is not allowed."""
    allowed = permissions()
    for source in _sources(config):
        location = source.rpartition(":")[0] or source
        if location.endswith(".py"):
            files = [Path(name).resolve() for name in allowed if name.endswith(".py")]
            is_allowed = Path(location).resolve() in files
        else:
            is_allowed = any(location == name or location.startswith(name + ".") for name in allowed)
        if not is_allowed:
            raise ForeignCode(source, location)


def _sources(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if str(config.get("class_path")).endswith("EPyMARLCritic"):
            yield str((config.get("init_args") or {}).get("source"))
        for value in config.values():
            yield from _sources(value)
    elif isinstance(config, list):
        for value in config:
            yield from _sources(value)


def denied_import(message: str) -> ForeignCode | None:
    """The refusal in a message of jsonargparse, if that is what it tells."""
    path = re.search(r"Importing '([\w.]+)' is not allowed", message)
    return ForeignCode(path[1], path[1].rpartition(".")[0]) if path else None
