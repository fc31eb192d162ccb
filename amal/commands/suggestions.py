"""The nearest thing to what was mistyped on the command line or in a config."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from amal.battle.entries import nearest
from amal.commands.arguments import nearest_option
from amal.runtime.yaml_files import read_yaml


def suggestion(message: str, parser: ArgumentParser) -> str:
    """What an error of jsonargparse leaves out: ' (did you mean X?)' for an argument, ' (in FILE)' for a broken config.

    Args:
        message: of the error.
        parser: of the command, which knows the options; classes' own arguments come from their constructors.
    """
    if "Problems parsing config" in message:
        broken = [file for file, given in zip(sys.argv[1:], sys.argv, strict=False) if given == "--config"]
        return "".join(f" (in {file})" for file in broken if not _is_yaml(Path(file)))
    option = re.search(r"unrecognized arguments: (--[\w.]+)", message)
    if option:
        return nearest_option(option[1], [name for action in parser._actions for name in action.option_strings])
    key = re.search(r"does not accept option '(\w+)", message)
    if key:
        sections = (word.lstrip("-").partition(".")[0] for action in parser._actions for word in action.option_strings)
        return nearest(key[1], set(sections))
    name = re.search(r"(?:Expected a dot import path string: |has no attribute ')(\w+)", message)
    if name:
        return nearest(name[1], _classes())
    argument = re.search(r"Option '(\w+)' is not accepted", message)
    class_paths = re.findall(r"class_path[ =]'([\w.]+)'", message)  # outermost first
    if not argument or not class_paths:
        return ""
    # a base's argument that the class sets itself is none to suggest
    return nearest(argument[1], [known for known in _arguments(class_paths[-1]) if known != argument[1]])


def _classes() -> set[str]:
    """Names of the classes here that a configuration could have meant."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("amal", "callbacks")]
    return {name for module in modules for name, value in vars(module).items() if inspect.isclass(value)}


def _is_yaml(path: Path) -> bool:
    try:
        return read_yaml(path) is not None
    except (OSError, ValueError):
        return False


def _arguments(class_path: str) -> Iterator[str]:
    module, _, name = class_path.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():  # a method of a class is none
        yield from inspect.signature(base).parameters
