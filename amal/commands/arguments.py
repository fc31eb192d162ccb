"""What the commands' arguments have in common, and how a command refuses them: one line on stderr, exit code 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from amal.runtime.shipped import config_file, is_file, shipped_names


def fail(message: str) -> NoReturn:
    """One line on stderr, whatever lines the message has, and exit code 2.

    A message may quote a stranger's file, so characters that a terminal might obey are escaped."""
    line = " ".join(filter(None, map(str.strip, message.splitlines())))
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print("error: " + "".join(escaped), file=sys.stderr)
    sys.exit(2)


@contextmanager
def refusing(place: Path | str = "a file") -> Iterator[None]:
    """Within the context, a ValueError or an OSError ends the command by ``fail``.

    Args:
        place: what is told of an OSError that names no file, as that of a full disk.
    """
    try:
        yield
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or place}: {error.strerror or error}")


def path_argument(text: str) -> Path:
    """A path that was given. An empty one, of a variable that is not set, would be the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def algorithm_configs(word: str) -> tuple[str, list[Path]]:
    """Label and config files of an algorithm: 'NAME' for configs/NAME.yaml, in the working directory or as shipped, or
    'NAME:FILE,FILE' for those files or shipped configurations. Raises ValueError."""
    label, colon, files = word.partition(":")
    if not re.fullmatch(r"\w[\w.-]*", label) or label == "logs":  # studies have folders of that name, beside logs/
        raise ValueError(f"--algorithms: {label!r} cannot name an algorithm, for it names a folder")
    named = files.split(",") if colon else [f"configs/{label}.yaml"]
    configs = [config_file(name) for name in named]
    for name, config in zip(named, configs, strict=True):
        if not is_file(config):
            raise ValueError(f"--algorithms {word}: no file {name}{nearest_config(name)}")
    return label, configs


def nearest_config(name: str) -> str:
    """A hint at the file or shipped configuration that was probably meant."""
    from amal.battle.entries import nearest  # which loads the simulator, for whose compiler --help need not wait

    path = Path(name)
    shipped = shipped_names()
    known = [f"configs/{each}.yaml" for each in shipped] if path.parts[:1] == ("configs",) else shipped
    return nearest(name, [*known, *(str(file) for file in path.parent.glob("*.yaml"))])


def add_code_option(parser: argparse.ArgumentParser) -> None:
    """``--allow_code``, whose meaning is that of ``amal.runtime.trusted_code``."""
    parser.add_argument(
        "--allow_code",
        action="append",
        default=[],
        metavar="NAME",
        help="a package, module or file of others that may be run if a configuration names it; may be given again",
    )


def nearest_option(word: str, known: Sequence[str]) -> str:
    """' (did you mean X?)' for the option that begins with the word, else for one that is written like it."""
    from amal.battle.entries import nearest  # which loads the simulator, for whose compiler --help need not wait

    longer = [option for option in known if option.startswith(word)]
    return f" (did you mean {min(longer, key=len)}?)" if longer else nearest(word, known)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        self._words = [str(word).partition("=")[0] for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        known = [name for action in self._actions for name in action.option_strings]
        if "are required" in message:  # maybe one of them was misspelt, which argparse would only tell later
            unknown = next((word for word in self._words if word.startswith("--") and word not in known), None)
            message += f"; unrecognized: {unknown}" if unknown is not None else ""
        else:
            found = re.search(r"unrecognized arguments: (--[\w-]+)", message)
            unknown = found[1] if found else None
        fail(message + (nearest_option(unknown, known) if unknown is not None else ""))
