"""A run's module, brought back from its checkpoint to play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning import LightningModule

from amal.battle.battlefield import Scenario
from amal.battle.opponent_side import check_equal_teams
from amal.battle.scenario import check_same_content, load_scenario, with_random_delay
from amal.runtime.checkpoints import CheckpointError, check_fits, check_is_file, read_checkpoint
from amal.runtime.configuration import DIMENSIONS, check_parsed
from amal.runtime.trusted_code import ForeignCode, denied_import, permissions
from amal.runtime.yaml_files import BadYaml, read_yaml
from amal.types import Actor


def load_player(checkpoint: Path, config: Path | None = None) -> tuple[LightningModule, Scenario]:
    """The module that a run trained, as it was at a checkpoint, and the scenario that it fought.

    Args:
        checkpoint: of the run.
        config: the run's configuration; by default config.yaml, above the checkpoint's folder or in it.

    Raises CheckpointError, ScenarioError, ForeignCode (all of them ValueErrors) or OSError."""
    check_is_file(checkpoint)
    config = config or _config_of(checkpoint)
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


def _config_of(checkpoint: Path) -> Path:
    """Where a run has its configuration, or beside the checkpoint, where one that was copied away may have it."""
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
    permissions()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    try:
        parsed = parser.parse_object({"model": model | {"init_args": arguments}})
        check_parsed(parser, parsed)
        # algorithms that ask for it
        for name, known in (("layout", scenario.layout()), ("scenario", scenario)):
            if name in parsed.model.init_args:
                parsed.model.init_args[name] = known
        with torch.random.fork_rng(devices=[]):  # whoever is built next gets the weights that it would have got
            built = parser.instantiate(parsed)
    except ForeignCode:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise denied_import(str(error)) or CheckpointError(f"{config}: {' '.join(str(error).split())}") from None
    module: LightningModule = built.model
    return module
