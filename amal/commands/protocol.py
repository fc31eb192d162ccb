"""A study's protocol: what is to be run and concluded, in a file that is written before the runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amal.battle.entries import nearest
from amal.commands.arguments import OneLineParser
from amal.runtime.shipped import CONFIGS, config_file
from amal.runtime.yaml_files import BadYaml, read_yaml
from amal.study.records import StudyError

SETTINGS = (
    *("algorithms", "scenarios", "seeds", "env_steps", "overrides"),
    *("baseline", "tuned_on", "acting", "budgets", "names", "colours"),
)
MAPPINGS = ("budgets", "names", "colours")  # which are NAME=TEXT as options


def with_protocol(args: Sequence[str]) -> list[str]:
    """Arguments of ``compare`` with ``--protocol FILE`` replaced by the options that the file sets.

    The file is a mapping of ``SETTINGS``, named and written like the options. What it sets cannot be set beside it.

    Raises:
        StudyError: there is no such file, or it is not a protocol, or an option contradicts it.
    """
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--protocol", type=config_file)
    options, others = parser.parse_known_args(args)
    if options.protocol is None:
        return others
    words: list[str] = []
    for name, value in _read(options.protocol).items():
        if any(word.partition("=")[0] == f"--{name}" for word in others):
            raise StudyError(f"--{name} is set by --protocol {options.protocol}; change it there, before the first run")
        if name in MAPPINGS and isinstance(value, dict):
            value = [f"{algorithm}={text}" for algorithm, text in value.items()]
        values = value if isinstance(value, list) else [value]
        if name == "seeds" and isinstance(value, list) and len(value) == 1:  # as an option it is a number of seeds
            raise StudyError(f"{options.protocol}: seeds: {value} must be two or more, or how many (1 is seed 0)")
        if not all(isinstance(each, str | int | float) for each in values):
            raise StudyError(f"{options.protocol}: {name} must be a word, a number or a list of them, got {value!r}")
        option = next((each for each in values if str(each).startswith("-")), None)
        if option is not None:  # a file gives values, no options: it could allow itself to run code
            raise StudyError(f"{options.protocol}: {name}: a value must not begin with a dash, got {option!r}")
        words += [f"--{name}", *map(str, values)] if values else []
    return [*words, *others]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        known = [str(file) for file in path.parent.glob("*.yaml")]
        known += [f"study/{file.stem}" for file in (CONFIGS / "study").glob("*.yaml")]
        raise StudyError(f"--protocol: no file {path}{nearest(str(path), known)}") from None
    except BadYaml as error:
        raise StudyError(f"--protocol {error}") from None
    except OSError as error:
        raise StudyError(f"--protocol {path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise StudyError(f"--protocol {path} is no mapping of {', '.join(SETTINGS)}")
    for name in content:
        if name not in SETTINGS:
            raise StudyError(
                f"{path}: unknown setting {name!r}{nearest(str(name), SETTINGS)}; allowed: {', '.join(SETTINGS)}"
            )
    return content
