"""What a checkpoint may be resumed with: the settings and the simulator that it was made with, and no others.

A run that is resumed ends with the same numbers as one that was never interrupted. With other settings it would be a
run of neither, so any difference is refused. A larger budget is allowed and told: schedules
follow the new one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from amal.battle.battlefield import delay_in_words
from amal.battle.compilation import simulator_hash
from amal.runtime.checkpoints import CheckpointError, changes_no_numbers, check_contents
from amal.runtime.plain_data import plain
from amal.runtime.trusted_code import OPTION, code_digests

SETTINGS, CODE = "settings", "allowed_code"  # their keys in a checkpoint
# What a run's numbers depend on. The rest says where files go, what is shown and how often it is saved.
_DECISIVE = ("seed_everything", "model", "data", "evaluation")
_DECISIVE_OF_TRAINER = ("callbacks", "precision", "devices", "num_nodes", "strategy", "deterministic")
# What training goes on from, beside the parts that check themselves when they are restored.
RESUMED = {
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("loops", "callbacks", "RolloutDataModule"), dict),
    **dict.fromkeys(("RolloutDataModule.env_steps", "RolloutDataModule.episodes"), int),
    "RolloutDataModule.wall_seconds": float,
    "RolloutDataModule.processes": list,
    **dict.fromkeys(("callbacks.Evaluation", "callbacks.RunCheckpoint"), dict),
}
RESUMED_CALLBACKS = {"Evaluation.rows": list, "RunCheckpoint.last_periodic": int}
TRACKED = {"Tracking": dict, "Tracking.loggers": list}  # of callbacks, where a run has them
_BUDGETS = ("data.env_steps", "data.episodes")
_SHOWN = 3  # differences that are named


def decisive_settings(parser: LightningArgumentParser, config: Namespace) -> dict[str, Any]:
    """The part of a complete configuration that a run's numbers depend on, as plain data; DOTTED.NAME: value."""
    whole = yaml.safe_load(parser.dump(config, skip_unset=False, skip_validation=True))
    trainer = {name: whole["trainer"].get(name) for name in _DECISIVE_OF_TRAINER}
    if isinstance(trainer["callbacks"], list):
        trainer["callbacks"] = [
            one for one in trainer["callbacks"] if not changes_no_numbers(one["class_path"])
        ] or None
    chosen = {name: whole.get(name) for name in _DECISIVE} | {"trainer": trainer}
    return dict(_flat(chosen))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        for position, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{position}]")
    else:
        yield name, value


def check_resumable(checkpoint: Path, content: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises CheckpointError if training cannot go on from a checkpoint with these settings as if never interrupted.

    Args:
        checkpoint: its path.
        content: what it holds.
        settings: of the command, see ``decisive_settings``.
    """
    if not content.get("optimizer_states"):
        rest = f"take {checkpoint.parent}/last.ckpt"
        if checkpoint.name == "last.ckpt":
            rest = "its run is finished and did not keep its learning state"
        raise CheckpointError(f"{checkpoint}: is for playing and cannot be resumed, for it has no optimizers; {rest}")
    check_contents(checkpoint, content, RESUMED, required=True)
    check_contents(checkpoint, content["callbacks"], RESUMED_CALLBACKS, required=True)
    check_contents(checkpoint, content["callbacks"], TRACKED)
    if not all(map(_is_logger, content["callbacks"].get("Tracking", {}).get("loggers", []))):
        raise CheckpointError(f"{checkpoint}: damaged or not written here: Tracking.loggers are no pairs of texts")
    theirs = plain(content.get(SETTINGS))
    if not isinstance(theirs, dict):
        raise CheckpointError(f"{checkpoint}: does not tell its settings (an older version's?); begin a new run")
    absent = object()
    differing = [key for key in theirs | settings if theirs.get(key, absent) != settings.get(key, absent)]
    grown = [key for key in differing if key in _BUDGETS and _is_more(settings.get(key), theirs.get(key))]
    differing = [key for key in differing if key not in grown]
    if differing:
        each = [f"{key} was {_told(theirs, key)} and is now {_told(settings, key)}" for key in differing[:_SHOWN]]
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise CheckpointError(
            f"{checkpoint}: made with other settings: {'; '.join(each)}{more}; resume with the run's own "
            "config.yaml, or begin a new run"
        )
    made_with = simulator_of(content)
    if made_with != simulator_hash():
        raise CheckpointError(
            f"{checkpoint}: made with another simulator ({made_with!r}, this one is {simulator_hash()}); "
            "resume with the code that made it, or begin a new run"
        )

    for key in grown:
        print(
            f"note: {key} grows from {theirs[key]:,} to {settings[key]:,}; schedules follow the new budget: the "
            "learning rate goes on where a run of that budget would have it (run.json tells of it)",
            file=sys.stderr,
        )


def _is_logger(entry: Any) -> bool:
    """Whether it is a class and the name by which it knows the run, a version's number for some."""
    return isinstance(entry, list) and list(map(type, entry)) in ([str, str], [str, int], [str, type(None)])


def _is_more(now: Any, then: Any) -> bool:
    return isinstance(now, int | float) and isinstance(then, int | float) and now > then


def check_code_unchanged(content: dict[str, Any]) -> None:
    """Raises CheckpointError if code of others that a run was allowed is allowed now too, but is different."""
    theirs, now = content.get(CODE), code_digests()
    changed = [name for name in now if isinstance(theirs, dict) and theirs.get(name, now[name]) != now[name]]
    if changed:
        raise CheckpointError(
            f"{OPTION} {changed[0]}: that code has changed since the run began; put it back as it was, or begin a new "
            "run"
        )


def check_opponent(content: dict[str, Any], now: str | None) -> None:
    """Raises CheckpointError if the checkpoint that drives the enemies, of digest ``now``, is another one by now."""
    if content["RolloutDataModule"].get("opponent_sha256") != now:
        raise CheckpointError(
            "data.opponent: that checkpoint has changed since the run began; put it back as it was, or begin a new run"
        )


def _told(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"


def simulator_of(content: dict[str, Any]) -> str:
    """The hash of the simulator that a checkpoint was made with."""
    return str(content.get("RolloutDataModule", {}).get("simulator_hash", "unknown"))


def scenario_of(content: dict[str, Any]) -> dict[str, Any]:
    """The ``identity`` of the scenario that a checkpoint was made on; empty where another back end had it."""
    return dict(content.get("RolloutDataModule", {}).get("scenario", {}))


def check_playable(checkpoint: Path, content: dict[str, Any], plays: dict[str, Any]) -> None:
    """Says so if a checkpoint was made on other battles than it will play.

    Whether its networks fit is for ``check_fits`` to say.

    Args:
        checkpoint: its path.
        content: what it holds.
        plays: ``identity`` of the scenario to be played; the name alone in another back end.
    """
    trained_on = scenario_of(content) or plays
    if trained_on["name"] != plays["name"]:
        print(f"note: {checkpoint} was trained on {trained_on['name']!r} and plays {plays['name']!r}", file=sys.stderr)
    delays = [delay_in_words(scenario.get("random_delay")) for scenario in (trained_on, plays)]
    if delays[0] != delays[1]:
        print(f"note: {checkpoint} was trained {delays[0]} and plays {delays[1]}", file=sys.stderr)
    if simulator_of(content) != simulator_hash():
        hashes = f"{simulator_of(content)!r}, this one is {simulator_hash()}"
        print(f"note: {checkpoint} was trained in another simulator ({hashes})", file=sys.stderr)
