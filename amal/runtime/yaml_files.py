"""YAML as this project reads it: plain data in UTF-8, no key given twice, no deeper than anybody writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEEPEST = 64  # nested collections; far deeper ones exhaust Python's stack, or the C stack of libyaml
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadYaml(ValueError):
    """Text that is no YAML, or none that is taken here; the message is one line, and names the line of the text."""


def check_yaml(text: str) -> None:
    """Raises before anything is built: yaml.YAMLError for what is no YAML, BadYaml for a key that is given twice, of
    which YAML would silently keep the last, for what is nested too deep, and for what contains itself."""
    open_: list[tuple[str | None, dict[str, int] | None]] = []  # anchor and keys (None: of a list) of each collection
    expects_key: list[bool] = []
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark is not None else 0
        if isinstance(event, yaml.NodeEvent) and open_ and (keys := open_[-1][1]) is not None:
            if expects_key[-1] and isinstance(event, yaml.ScalarEvent):
                if event.value in keys:
                    first = keys[event.value]
                    raise BadYaml(f"line {line}: key {event.value!r} is given twice, first in line {first}")
                keys[event.value] = line
            expects_key[-1] = not expects_key[-1]
        if isinstance(event, yaml.AliasEvent) and event.anchor in [anchor for anchor, _ in open_]:
            raise BadYaml(f"line {line}: *{event.anchor} would contain itself")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, {} if isinstance(event, yaml.MappingStartEvent) else None))
            expects_key.append(True)
            if len(open_) > DEEPEST:
                raise BadYaml(f"line {line}: nested deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
            expects_key.pop()


def _told(error: yaml.YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return f"no YAML ({' '.join(str(error).split())})"
    return f"line {mark.line + 1}: no YAML ({problem})"


def parse_yaml(text: str) -> Any:
    """What a text holds. Raises BadYaml."""
    try:
        check_yaml(text)
        return yaml.load(text, Loader=_LOADER)
    except BadYaml:
        raise
    except yaml.YAMLError as error:
        raise BadYaml(_told(error)) from None
    except ValueError as error:  # a date that is none
        raise BadYaml(f"no YAML ({error})") from None


def decode(data: bytes) -> str:
    """The text of a file's bytes. Raises BadYaml."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadYaml(f"line {line}: not in UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None


def read_yaml(path: Path) -> Any:
    """What a file holds. Raises BadYaml, whose message begins with the path, or OSError."""
    data = path.read_bytes()
    try:
        return parse_yaml(decode(data))
    except BadYaml as error:
        raise BadYaml(f"{path}: {error}") from None
