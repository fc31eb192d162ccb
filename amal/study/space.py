"""The space of a sweep: which arguments of ``fit`` are searched, and among which values."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amal.battle.entries import nearest
from amal.runtime.argument_checks import LARGEST_COUNT
from amal.runtime.yaml_files import BadYaml, read_yaml
from amal.study.records import StudyError

if TYPE_CHECKING:
    import optuna

_RANGE = ("low", "high", "log", "step")
Space = Mapping[str, Mapping[str, Any]]


def read_space(path: Path, taken: Sequence[str]) -> Space:
    """The space in a YAML file, a mapping of names to ``{choices: […]}`` or ``{low, high, log, step}``.

    A name is an argument of ``fit``, as ``model.lr``. Choices that are mappings set several arguments together; their
    name is free.

    Args:
        path: of the file.
        taken: arguments that the sweep sets itself.

    Raises:
        StudyError: there is no such file, or it describes no space; the message names file and key.
    """
    try:
        content = read_yaml(path)
    except BadYaml as error:
        raise StudyError(f"--space {error}") from None
    except OSError as error:
        raise StudyError(f"--space {path}: {error.strerror}") from None
    if not isinstance(content, dict) or not content:
        raise StudyError(f"--space {path}: must be a mapping of arguments to {{choices}} or {{low, high}}")
    for name, given in content.items():
        where = f"--space {path}: {name}"
        if not isinstance(name, str):
            raise StudyError(f"{where}: a name must be a text")
        if not isinstance(given, dict):
            raise StudyError(f"{where}: must be {{choices: […]}} or {{low: …, high: …}}, got {given!r}")
        if "choices" in given:
            _check_choices(where, given)
        else:
            content[name] = _checked_range(where, given)
        for choice in given.get("choices", [{}]):
            for argument in choice if isinstance(choice, dict) else [name]:
                if argument in taken or not str(argument).replace(".", "").isidentifier():
                    raise StudyError(f"{where}: {argument} is set by the sweep itself, or is no argument of fit")
    return content


def _check_choices(where: str, given: Mapping[str, Any]) -> None:
    choices = given["choices"]
    if len(given) > 1 or not isinstance(choices, list) or not choices:
        raise StudyError(f"{where}: choices must be a list and stand alone, got {dict(given)!r}")
    mappings = [isinstance(choice, dict) for choice in choices]
    if any(mappings) and not all(mappings):
        raise StudyError(f"{where}: choices must all be mappings of arguments, or none of them")
    for choice in choices:
        try:
            json.dumps(choice, allow_nan=False)
        except (TypeError, ValueError):
            raise StudyError(
                f"{where}: choices must be made of texts, finite numbers, true, false, null, lists and mappings, got "
                f"{choice!r}; put a date in quotes"
            ) from None


def _checked_range(where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = next((key for key in given if key not in _RANGE), None)
    if unknown is not None or not {"low", "high"} <= given.keys():
        hint = "" if unknown is None else f": unknown key {unknown!r}{nearest(str(unknown), ('choices', *_RANGE))}"
        raise StudyError(f"{where}: must have choices, or low and high, and may have log or step{hint}")
    found = {key: _number(where, key, value) if key != "log" else value for key, value in given.items()}
    if not isinstance(found.get("log", False), bool):
        raise StudyError(f"{where}: log must be true or false, got {found['log']!r}")
    if not found["low"] < found["high"]:
        raise StudyError(f"{where}: low must be below high, got {found['low']} and {found['high']}")
    if found.get("log") and (found["low"] <= 0 or "step" in found):
        raise StudyError(f"{where}: with log, low must be above 0 and there is no step")
    if "step" in found and found["step"] <= 0:
        raise StudyError(f"{where}: step must be above 0, got {found['step']}")
    return found


def _number(where: str, key: str, value: Any) -> int | float:
    try:
        number = (
            value if isinstance(value, int) and not isinstance(value, bool) else float(value)
        )  # YAML's 1e-4 is text
    except (TypeError, ValueError):
        raise StudyError(f"{where}: {key} must be a number, got {value!r}") from None
    if not abs(number) <= LARGEST_COUNT:  # Optuna keeps all numbers as floats
        span = f"between -{LARGEST_COUNT:,} and {LARGEST_COUNT:,}"
        raise StudyError(f"{where}: {key} must be a number {span}, got {reprlib.repr(value)}")
    return number


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """What a trial tries: the value of each argument of ``fit``."""
    values: dict[str, Any] = {}
    for name, given in space.items():
        if "choices" in given:
            # a storage takes texts and numbers only
            chosen = json.loads(trial.suggest_categorical(name, [json.dumps(choice) for choice in given["choices"]]))
            values |= chosen if isinstance(chosen, dict) else {name: chosen}
        elif all(isinstance(given[key], int) for key in given if key != "log"):
            values[name] = trial.suggest_int(name, **given)
        else:
            values[name] = trial.suggest_float(name, **given)
    return values


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """KEY=VALUE of each argument, as ``fit`` takes them."""
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]


def examples(space: Space) -> list[list[str]]:
    """Few sets of KEY=VALUE, as trials may have them, that hold all arguments and all choices of a space.

    Of a range they hold both ends; an end of it may be one that no trial has.
    """
    of = {name: given.get("choices") or [given["low"], given["high"]] for name, given in space.items()}
    sets = []
    for i in range(max(map(len, of.values()))):
        values: dict[str, Any] = {}
        for name, those in of.items():
            chosen = those[i % len(those)]
            values |= chosen if isinstance(chosen, dict) else {name: chosen}
        sets.append(as_overrides(values))
    return sets
