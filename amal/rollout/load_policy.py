"""A run's module, or its weights, brought back from its checkpoint to play."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning import LightningModule

from amal.battle.battlefield import Scenario
from amal.battle.entries import ScenarioError
from amal.battle.opponent_side import check_equal_teams
from amal.battle.scenario import check_same_content, load_scenario, with_random_delay
from amal.runtime.checkpoints import CheckpointError, check_fits, check_is_file, read_checkpoint
from amal.runtime.configuration import DIMENSIONS, check_parsed
from amal.runtime.plain_data import NOT_RECORDED, not_recorded
from amal.runtime.trusted_code import ForeignCode, also_allowed, denied_import, permissions
from amal.runtime.yaml_files import BadYaml, read_yaml
from amal.types import Actor


def load_player(checkpoint: Path, config: Path | None = None) -> tuple[LightningModule, Scenario]:
    """The module that a run trained, as it was at a checkpoint, and the scenario that it fought.

    Args:
        checkpoint: of the run.
        config: the run's configuration; by default config.yaml, above the checkpoint's folder or in it.

    Raises CheckpointError, ScenarioError, ForeignCode (all of them ValueErrors) or OSError."""
    check_is_file(checkpoint)
    config = config or config_of(checkpoint)
    model, data = _sections(config)
    backend = data.get("backend", "embedded")
    if backend != "embedded":
        raise CheckpointError(
            f"{config}: battles of backend {backend!r} cannot be drawn, only the embedded simulator's"
        )
    scenario = load_scenario(data["scenario"], data.get("episode_limit"))
    try:
        scenario = with_random_delay(scenario, data.get("random_delay", False))
    except ValueError as error:
        raise CheckpointError(f"{config}: data.{error}") from None
    module = _build(model, scenario, config)
    if not all(callable(getattr(module, name, None)) for name in ("act", "initial_hidden", "action_scores")):
        raise CheckpointError(
            f"{config}: a {type(module).__name__} cannot play: it is no amal.algorithms.base.Algorithm"
        )
    content = read_checkpoint(checkpoint, mapped=True)
    check_same_content(scenario, content.get("RolloutDataModule", {}).get("scenario", {}))
    weights = content["state_dict"]
    check_fits(weights, module, checkpoint, f"{config} and the scenario {scenario.name}")
    module.load_state_dict(weights)
    return module.eval(), scenario


def load_opponent(checkpoint: Path, scenario: Scenario) -> Actor:
    """The module of a checkpoint, to drive the enemies of that scenario. Raises as ``load_player``."""
    check_equal_teams(scenario)
    module, learned = load_player(checkpoint)
    for name in ("n_agents", "n_actions", "obs_dim"):
        theirs, ours = getattr(learned.spec(), name), getattr(scenario.spec(), name)
        if theirs != ours:
            raise CheckpointError(
                f"{checkpoint}: plays {learned.name} and not {scenario.name}: its {name} is {theirs}, not {ours}"
            )
    return module  # type: ignore[return-value]


@contextmanager
def checkpoint_weights(module: LightningModule, checkpoint: Path) -> Iterator[None]:
    """The module with the weights of a checkpoint of its run for a while; afterwards its own, bit for bit, also if
    something raises in between. Raises as ``read_checkpoint``."""
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights = read_checkpoint(checkpoint)["state_dict"]
    try:
        module.load_state_dict(weights)
        yield
    finally:
        module.load_state_dict(own)


def config_of(checkpoint: Path) -> Path:
    """The configuration of a checkpoint's run: in the run's folder, or beside a checkpoint that was copied elsewhere.

    Raises CheckpointError if it is in neither place."""
    folder = checkpoint.absolute().parent
    for config in (folder.parent / "config.yaml", folder / "config.yaml"):
        if config.is_file():
            return config
    raise CheckpointError(f"{checkpoint}: no configuration of its run: no config.yaml in {folder.parent} or {folder}")


def _sections(config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and data of a run's configuration."""
    try:
        content = read_yaml(config)
    except BadYaml as error:
        raise CheckpointError(str(error)) from None
    sections = content if isinstance(content, dict) else {}
    model, data = sections.get("model"), sections.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict) or "scenario" not in data:
        raise CheckpointError(f"{config}: not the configuration of a run, for it has no model or no data.scenario")
    if not isinstance(data["scenario"], str):
        raise CheckpointError(f"{config}: data.scenario must be a name or a file, got {data['scenario']!r}")
    limit = data.get("episode_limit")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise CheckpointError(f"{config}: data.episode_limit must be a whole number of at least 1, got {limit!r}")
    return model, data


def _build(model: dict[str, Any], scenario: Scenario, config: Path) -> LightningModule:
    """The module as the command line builds it, with fresh weights."""
    arguments = model.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{config}: model.init_args must be a mapping, got {arguments!r}")
    arguments |= {name: getattr(scenario.spec(), name) for name in DIMENSIONS}
    known = {"layout": scenario.layout(), "scenario": scenario}
    return _instantiate(model | {"init_args": arguments}, config, offered=known)


def rebuild(
    kind: type[LightningModule], content: dict[str, Any], checkpoint: Path, instead: dict[str, Any]
) -> LightningModule:
    """The module of a checkpoint with fresh weights, from the arguments that it holds itself.

    Args:
        kind: class that it must be of; one without an ``act`` of its own leaves it to the checkpoint.
        content: of the checkpoint.
        checkpoint: its path.
        instead: arguments that replace the checkpoint's.

    Raises CheckpointError or ForeignCode.
    """
    held = content.get(kind.CHECKPOINT_HYPER_PARAMS_KEY)
    if not isinstance(held, dict) or not isinstance(held.get("algorithm"), str):
        raise CheckpointError(f"{checkpoint}: does not tell how its algorithm was made (an older version's?)")
    arguments = {name: value for name, value in held.items() if name != "algorithm"}
    own = f"{kind.__module__}.{kind.__qualname__}"
    is_base = getattr(getattr(kind, "act", None), "__isabstractmethod__", False)
    if not is_base and held["algorithm"] != own:
        raise CheckpointError(f"{checkpoint}: is of {held['algorithm']} and not of {own}")
    gaps = [name for name in not_recorded(arguments) if name not in instead]
    if gaps:
        raise CheckpointError(
            f"{checkpoint}: {gaps[0]} was a {arguments[gaps[0]].get(NOT_RECORDED, 'value')} of a script, which a "
            f"checkpoint cannot hold; give it: load_from_checkpoint(..., {gaps[0]}=...)"
        )
    kept = {name: value for name, value in arguments.items() if name not in instead}
    with also_allowed(kind.__module__):
        model = {"class_path": held["algorithm"], "init_args": kept}
        return _instantiate(model, checkpoint, instead, offered=_known_of_battles(content))


def _known_of_battles(content: dict[str, Any]) -> dict[str, Any]:
    """Scenario and layout of the battles that a checkpoint's run fought, if they are some that ship."""
    told = content.get("RolloutDataModule", {}).get("scenario", {})
    try:
        scenario = load_scenario(told.get("name", ""), random_delay=told.get("random_delay") or False)
    except ScenarioError:
        return {}
    return {"layout": scenario.layout(), "scenario": scenario}


def _instantiate(
    model: dict[str, Any],
    source: Path,
    instead: Mapping[str, Any] = MappingProxyType({}),
    offered: Mapping[str, Any] = MappingProxyType({}),
) -> LightningModule:
    """The module of a class_path and its init_args, after both barriers of ``amal.runtime.trusted_code``.

    Args:
        model: as in a configuration.
        source: where it is from, for errors.
        instead: arguments beside those, as the caller's own code has them.
        offered: arguments beside those, for classes that take them.
    """
    permissions()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    try:
        parsed = parser.parse_object({"model": model})
        check_parsed(parser, parsed)
        taken = {name: value for name, value in offered.items() if name in parsed.model.init_args}
        for name, value in {**taken, **instead}.items():
            parsed.model.init_args[name] = value
        with torch.random.fork_rng(devices=[]):  # whoever is built next gets the weights that it would have got
            built = parser.instantiate(parsed)
    except ForeignCode:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise denied_import(str(error)) or CheckpointError(f"{source}: {' '.join(str(error).split())}") from None
    module: LightningModule = built.model
    return module
