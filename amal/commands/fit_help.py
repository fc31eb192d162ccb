"""What ``fit --help`` tells: the arguments of the model that the given configuration names, and of all around it.

LightningCLI's own help cannot know the model, and lists the trainer's arguments that have no meaning here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer

from amal.algorithms.amal import AMAL
from amal.algorithms.base import Algorithm
from amal.algorithms.mappo import MAPPO
from amal.commands.trainer_options import MUST_STAY
from amal.runtime.configuration import DIMENSIONS, OF_BATTLES
from amal.runtime.program import program
from amal.runtime.trusted_code import check_code
from amal.runtime.yaml_files import read_yaml
from callbacks.checkpoint import RunCheckpoint
from callbacks.evaluation import Evaluation
from datamodules.rollout import RolloutDataModule

_USAGE = "{program} {command} --config NAME|FILE [--config NAME|FILE …] [--ARGUMENT VALUE …]"
_EPILOG = (
    "Defaults are those of the given configuration. Later files and what is typed win; --trainer.callbacks+ adds to a "
    "list. --print_config shows the complete configuration, --model.help CLASS the arguments of another model. Code of "
    "others that a configuration names has to be allowed: --allow_code NAME."
)
_SHORT = {kind.__name__: f"{kind.__module__}.{kind.__qualname__}" for kind in (MAPPO, AMAL)}  # as they may be written


def help_of(command: str, args: Sequence[str]) -> str:
    """The text. Raises ValueError or OSError for a configuration that cannot be used.

    Args:
        command: fit, validate or test.
        args: of the command, files first.
    """
    config = _merged(args)
    model = config.get("model")
    class_path = model.get("class_path") if isinstance(model, dict) else model
    class_path = _SHORT.get(str(class_path), class_path)
    usage, about = _USAGE.format(program=program(), command=command), _about(class_path)
    parser = ArgumentParser(usage=usage, description=about, epilog=_EPILOG)
    parser.add_argument("--seed_everything", type=int, default=0, help="Of all that is random.")
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from, or to play.")
    if command == "fit":
        parser.add_argument("--out", type=str | None, default=None, help="Folder of the run.")
        parser.add_argument("--init_from", type=str | None, default=None, help="Checkpoint whose weights it takes.")
    if class_path is not None:
        check_code(Namespace(class_path=class_path))
        _add_model(parser, class_path, {name for name, value in _flat(config) if value is None})
    parser.add_class_arguments(RolloutDataModule, "data")
    if command == "fit":
        parser.add_class_arguments(Evaluation, "evaluation")
        parser.add_class_arguments(RunCheckpoint, "checkpoint")
    parser.add_class_arguments(Trainer, "trainer", skip=set(MUST_STAY))
    known = {action.dest for action in parser._actions}
    parser.set_defaults({name: value for name, value in _flat(config) if name in known})
    return str(parser.format_help())


def _about(class_path: str | None) -> str:
    if class_path is None:
        return "The model's arguments are shown with a configuration: --config mappo --help"
    return f"The model is {class_path}."


def _add_model(parser: ArgumentParser, class_path: str, null: set[str]) -> None:
    """The model's arguments, and those of its parts in groups of their own, but for parts that are null."""
    module, _, name = class_path.rpartition(".")
    kind = getattr(import_module(module), name)
    parts = dict(_parts(kind))
    parser.add_class_arguments(kind, "model", skip={*DIMENSIONS, *OF_BATTLES, *parts})
    for argument, part in parts.items():
        if f"model.{argument}" not in null:
            parser.add_class_arguments(part, f"model.{argument}")


def _parts(kind: type) -> Iterator[tuple[str, type]]:
    """The arguments that are dataclasses, but for what comes from the battles."""
    for base in inspect.getmro(kind):
        if "__init__" in base.__dict__ and issubclass(base, Algorithm):
            for argument, hint in get_type_hints(base.__init__).items():
                found = (one for one in get_args(hint) or (hint,) if inspect.isclass(one) and is_dataclass(one))
                yield from ((argument, part) for part in found if argument not in OF_BATTLES)


def _merged(args: Sequence[str]) -> dict[str, Any]:
    """Values of the config files among the arguments, the later ones over the earlier ones."""
    merged: dict[str, Any] = {}
    for word, following in zip(args, [*args[1:], ""], strict=True):
        option, _, value = word.partition("=")
        if option in ("--config", "-c"):
            content = read_yaml(Path(value or following))
            _merge(merged, content if isinstance(content, dict) else {})
    return merged


def _merge(into: dict[str, Any], content: dict[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names as they are typed, without init_args."""
    for name, value in config.items():
        dotted = prefix.rstrip(".") if name == "init_args" else f"{prefix}{name}"
        if isinstance(value, dict) and "class_path" not in value:
            yield from _flat(value, f"{dotted}.")
        elif isinstance(value, dict) and dotted == "model":
            yield from _flat({key: inner for key, inner in value.items() if key != "class_path"}, "model.")
        else:
            yield dotted, value
