"""What run.json and study.yaml must hold, and a study's record read and written.

Both files are checked when they are read; the rest relies on the types.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from amal.runtime.argument_checks import LARGEST_COUNT
from amal.runtime.atomic import replacing
from amal.runtime.yaml_files import BadYaml, read_yaml

BASELINE = "mappo"  # where a study names none


class StudyError(ValueError):
    """A study that cannot be run as asked; the message is one line."""


class Kind(NamedTuple):
    """A kind of value: its name in errors, and the test for it."""

    words: str
    accepts: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _is_name(value: Any) -> bool:
    # it becomes part of paths, and is printed
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("path", "sha256"))


def _is_list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _is_mapping_to(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict) and all(isinstance(name, str) and accepts(entry) for name, entry in value.items())
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_evaluation(value: Any) -> bool:
    least = {"every_n_episodes": 0, "episodes": 1, "test_episodes": 1}
    return (
        isinstance(value, dict)
        and value.keys() == least.keys()
        and all(_is_int(value[key]) and value[key] >= low for key, low in least.items())
    )


def _is_session(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("code_version"), str)


def _or_nothing(kind: Kind) -> Kind:
    return Kind(f"{kind.words} or nothing", lambda value: value is None or kind.accepts(value))


WORD = Kind("a text", lambda value: isinstance(value, str))
ACTING = (GREEDY, SAMPLED) = ("greedy", "sampled")  # how the teams act whose win rates count

NAME = Kind("a name of letters, digits, '_', '.' and '-'", _is_name)
NAMES = Kind("a list of names of letters, digits, '_', '.' and '-'", _is_list_of(_is_name))
WHOLE = Kind("a whole number", _is_int)
WORDS = Kind("a list of texts", _is_list_of(WORD.accepts))
WHOLES = Kind("a list of whole numbers", _is_list_of(_is_int))
AMOUNTS = Kind(f"a mapping to numbers of at least 0 and at most {LARGEST_COUNT:,}", _is_mapping_to(_is_amount))
PLAIN = Kind(
    "a mapping to texts and numbers",
    _is_mapping_to(lambda value: value is None or isinstance(value, str | int | float)),
)
LABELS = Kind(
    "a mapping to different printable texts",
    lambda value: _is_mapping_to(_is_label)(value) and len(set(value.values())) == len(value),
)
ONE_ACTING = Kind(f"one of {', '.join(ACTING)}", lambda value: value in ACTING)
COLOURS = Kind(
    "a mapping to colours like '#0072B2'",
    _is_mapping_to(lambda value: isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value) is not None),
)
FILES = Kind(
    "a mapping of names to lists of files, each a path and a sha256",
    lambda value: _is_mapping_to(_is_list_of(_is_file))(value) and all(map(_is_name, value)),
)
EVALUATION = Kind("a mapping of every_n_episodes, episodes and test_episodes to whole numbers", _is_evaluation)
SESSIONS = Kind(
    "a list of sessions, each with a code_version", lambda value: bool(value) and _is_list_of(_is_session)(value)
)

RUN = {"algorithm": NAME, "scenario": NAME, "seed": WHOLE, "outcome": WORD, "totals": AMOUNTS}
RUN_MAY_HAVE = {"code_version": WORD, "simulator_hash": WORD, "backend": WORD, "versions": PLAIN, "hardware": PLAIN}
RUN_MAY_HAVE |= {"evaluation": EVALUATION, "random_delay": WHOLES, "allowed_code": PLAIN}
STUDY = {
    **{"created": WORD, "env_steps": WHOLE, "overrides": WORDS, "algorithms": FILES, "scenarios": NAMES},
    **{"seeds": WHOLES, "history": SESSIONS},
}
STUDY_MAY_HAVE = {"baseline": NAME, "tuned_on": NAMES, "scenario_files": FILES, "names": LABELS, "colours": COLOURS}
STUDY_MAY_HAVE |= {"acting": ONE_ACTING, "budgets": AMOUNTS}


def check_record(path: Path, record: Any, needs: Mapping[str, Kind], may_have: Mapping[str, Kind]) -> dict[str, Any]:
    """The record, if it is a mapping in which each value is of its kind; else ValueError, whose message is one line."""
    if not isinstance(record, dict):
        raise ValueError(f"{path}: must be a mapping of {', '.join(needs)}, got {reprlib.repr(record)}")
    if missing := [key for key in needs if key not in record]:
        raise ValueError(f"{path}: lacks {', '.join(missing)}")
    kinds = {**needs, **{key: _or_nothing(kind) for key, kind in may_have.items()}}
    for key, kind in kinds.items():
        if not kind.accepts(record.get(key)):
            raise ValueError(f"{path}: {key} must be {kind.words}, got {reprlib.repr(record.get(key))}")
    return record


def read_record(study: Path) -> dict[str, Any] | None:
    """The content of study.yaml, None if there is no such file. Raises StudyError if it is not a study's record."""
    path = study / "study.yaml"
    try:
        record = read_yaml(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except BadYaml as error:
        raise StudyError(str(error)) from None
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return check_record(path, record, STUDY, STUDY_MAY_HAVE)
    except ValueError as error:
        raise StudyError(f"not the record of a study: {error}") from error


def write_record(study: Path, record: Mapping[str, Any]) -> None:
    with replacing(study / "study.yaml") as part:
        part.write_text(yaml.safe_dump(dict(record), sort_keys=False), encoding="utf-8")


def planned_tests(
    algorithms: Iterable[str], scenarios: Iterable[str], baseline: str | None, tuned_on: Sequence[str]
) -> dict[str, Any]:
    """The tests of a study. They are known before its first run, and p-values are corrected over all of them."""
    others = [name for name in algorithms if name != (baseline or BASELINE)]
    counted = [name for name in scenarios if name not in tuned_on]
    measures = ["final win rate: Welch's t-test", "steps to 90 % of the baseline's final win rate: log-rank test"]
    tests = len(others) * len(counted) * len(measures)
    return {"algorithms": others, "scenarios": counted, "measures": measures, "tests": tests, "correction": "Holm"}
