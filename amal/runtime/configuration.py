"""A run's configuration, as it is read from files and arguments and checked before anything is built from it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from amal.runtime.shipped import config_file, is_file
from amal.runtime.trusted_code import check_code
from amal.runtime.yaml_files import BadYaml, read_yaml

_FILE = ("--config", "-c")
_SUFFIXES = (".yaml", ".yml", ".json")
_SECTIONS = ("model", "data", "trainer", "evaluation", "checkpoint")
_ARGUMENTS = ("init_args", "dict_kwargs")
DIMENSIONS = ("n_agents", "n_actions", "obs_dim", "state_dim")  # of a battle; no configuration sets them
OF_BATTLES = ("layout", "scenario")  # nor these, which an algorithm may ask for


def check_parsed(parser: ArgumentParser, config: Namespace) -> None:
    """Raises before anything is built from a parsed configuration that must not be built.

    Args:
        parser: that parsed it.
        config: with a ``model``.

    Raises:
        ForeignCode: it names code that is not allowed.
        TypeError: it has null where a value is needed. jsonargparse takes null for "not set" and checks no further.
        ValueError: an argument of one of the model's parts has a value that is not allowed.
    """
    check_code(config)
    whole = config.clone()
    arguments = whole.get("model.init_args", {})
    for name in DIMENSIONS:
        if name in arguments:
            arguments[name] = 1  # comes from the battle later
    set_parsing_settings(unset_sentinel=True)  # now null is a value like any other
    try:
        parser.validate(whole)
    finally:
        set_parsing_settings(unset_sentinel=False)
    for name, kind, part in _model_parts(config):
        try:
            kind(**vars(part))
        except ValueError as error:  # a part does not know which argument it is
            raise ValueError(f"model.{name}.{error}") from None


def spell_out_parts(config: Namespace) -> None:
    """Writes the default classes of the model's parts as class_path and init_args.

    jsonargparse does so only in parts of which something is set. A configuration that it wrote and read again would not
    be the same."""
    for _, kind, part in _model_parts(config):
        for name, value in vars(part).items():
            if inspect.isclass(value):
                parser = ArgumentParser(exit_on_error=False)
                parser.add_argument("--value", type=get_type_hints(kind)[name], default=value)
                part[name] = parser.parse_object({}).value


def _model_parts(config: Namespace) -> Iterator[tuple[str, type, Namespace]]:
    """The model's arguments that are dataclasses: name, class and what is configured."""
    module, _, name = config.model.class_path.rpartition(".")
    for base in inspect.getmro(getattr(sys.modules[module], name)):
        try:
            hints = get_type_hints(base.__dict__.get("__init__", object.__init__))
        except NameError:  # of a type that is imported for type checkers only
            continue
        for argument, hint in hints.items():
            value = config.model.get(f"init_args.{argument}")
            if isinstance(value, Namespace):
                kinds = (kind for kind in get_args(hint) or (hint,) if inspect.isclass(kind) and is_dataclass(kind))
                yield from ((argument, kind, value) for kind in kinds)


def with_shipped_files(args: Sequence[str]) -> list[str]:
    """The arguments with the paths of shipped configurations for their names, as in ``--config mappo``."""
    found: list[str] = []
    for words in _by_option(args):
        key, equals, value = words[0].partition("=")
        if key in _FILE and equals:
            found += [f"{key}={config_file(value)}", *words[1:]]
        elif key in _FILE:
            found += [key, *(str(config_file(word)) for word in words[1:])]
        else:
            found += words
    return found


def missing_config(args: Sequence[str]) -> str | None:
    """The first config among the arguments that is the name of nothing, or of a folder, or None. Configs may also be
    given as text."""
    for words in _by_option(args):
        key, equals, value = words[0].partition("=")
        for word in [value] if equals else words[1:]:
            is_name = key in _FILE and re.fullmatch(r"[\w./-]+", word) and word != "null"
            if is_name and (not Path(word).exists() or Path(word).is_dir()):
                return word
    return None


def files_first(args: Sequence[str]) -> list[str]:
    """The arguments with what files say before what is typed, which wins: in jsonargparse, the later one does.

    Config files come first, in their order. A file for a part, as in ``--data data.yaml``, comes before the arguments
    below that part."""
    configs: list[list[str]] = []
    others: list[list[str]] = []
    for words in _by_option(args):
        key, equals, value = words[0].partition("=")
        if key in _FILE:
            configs.append(words)
        elif is_file(Path(value if equals else words[-1])):
            below = (i for i, other in enumerate(others) if other[0].startswith(key + "."))
            others.insert(next(below, len(others)), words)
        else:
            others.append(words)
    return [word for words in (*configs, *others) for word in words]


def _by_option(args: Sequence[str]) -> Iterator[list[str]]:
    """Each option with its value, and what stands before all options."""
    words: list[str] = []
    for word in args:
        if words and (word.startswith("--") or word in _FILE):
            yield words
            words = []
        words.append(word)
    if words:
        yield words


def check_files(args: Sequence[str]) -> None:
    """Raises BadYaml or OSError for a config file among the arguments that holds no mapping, or for a YAML file that
    one names, directly or through others, if it is not well-formed or its parts are not mappings. A file whose
    callbacks or loggers replace those of an earlier one is told on stderr."""
    seen: set[Path] = set()
    lists: dict[str, tuple[Path, list[str]]] = {}
    for words in _by_option(args):
        key, equals, value = words[0].partition("=")
        values = [value] if equals else words[1:]
        if key not in _FILE:
            _check_named(values, Path(), seen)
        for path in map(Path, values if key in _FILE else ()):
            if is_file(path):
                content = read_yaml(path)
                if not isinstance(content, dict):
                    raise BadYaml(f"{path}: {'empty' if content is None else f'holds {content!r:.40}'}, not a mapping")
                _check_parts(content, path)
                _check_named(content, path.parent, seen)
                _tell_dropped(content, path, lists)


def _tell_dropped(content: dict[str, Any], path: Path, lists: dict[str, tuple[Path, list[str]]]) -> None:
    """Says which entries of an earlier file's lists are gone because this one has a list of its own.

    Args:
        content: of the file.
        path: of it.
        lists: file and entries of the earlier ones, by name; brought up to date.
    """
    trainer = content.get("trainer")
    if not isinstance(trainer, dict):
        return
    for name in ("callbacks", "logger"):
        before, entries = lists.get(name, (path, []))
        if name in trainer:
            kept = _class_names(trainer[name])
            dropped = [entry for entry in entries if entry not in kept]
            if dropped:
                print(
                    f"note: {path}: trainer.{name} replaces that of {before}, so {', '.join(dropped)} "
                    f"{'is' if len(dropped) == 1 else 'are'} gone; write {name}+ to add to it",
                    file=sys.stderr,
                )
            lists[name] = (path, kept)
        added = _class_names(trainer.get(f"{name}+"))
        if added:
            lists[name] = (path, [*lists.get(name, (path, []))[1], *added])


def _class_names(value: Any) -> list[str]:
    """The classes that entries of a list name, without their modules."""
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("class_path") if isinstance(entry, dict) else entry for entry in entries]
    return [path.rpartition(".")[2] for path in paths if isinstance(path, str)]


def _check_named(content: Any, folder: Path, seen: set[Path]) -> None:
    """Raises BadYaml for a file that a string in the content of a file of that folder names."""
    if isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            _check_named(inner, folder, seen)
    elif isinstance(content, str) and content.endswith(_SUFFIXES):
        for path in (folder / content, Path(content)):
            if path not in seen and is_file(path):
                seen.add(path)
                named = read_yaml(path)
                _check_parts(named, path)
                _check_named(named, path.parent, seen)


def _check_parts(content: Any, path: Path, where: str = "") -> None:
    """Raises BadYaml for a part of a configuration that has arguments below it, but is something else in that file."""
    if isinstance(content, dict):
        for key, inner in content.items():
            is_part = key in _ARGUMENTS or (not where and key in _SECTIONS)
            if is_part and (inner is None or (key in _ARGUMENTS and not isinstance(inner, dict))):
                got = "leave it out, or set something below it" if inner is None else f"got {inner!r:.40}"
                raise BadYaml(f"{path}: {where}{key} must be a mapping of arguments: {got}")
            _check_parts(inner, path, f"{where}{key}.")
    elif isinstance(content, list):
        for i, inner in enumerate(content):
            _check_parts(inner, path, f"{where[:-1]}[{i}].")
