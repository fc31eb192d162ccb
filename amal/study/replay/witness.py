"""A run's policy, brought back from its checkpoint to play, and a witness of what it thinks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning import LightningModule
from torch import Tensor

from amal.battle.scenario import load_scenario
from amal.ops.losses import masked_log_softmax
from amal.study.replay.command import ReplayError
from amal.study.replay.player import Decisions
from amal.types import BattleSpec

DIMENSIONS = ("n_agents", "n_actions", "obs_dim", "state_dim")
LEARNING_STORES = ("replay_capacity", "auxiliary_capacity")  # gigabytes in some scenarios, of no use to play


def load_player(checkpoint: Path, config: Path) -> tuple[LightningModule, BattleSpec]:
    """The module that a run trained, as it was at a checkpoint, and the sizes of its battles.

    Raises ReplayError, ScenarioError or OSError."""
    model, data = _sections(config)
    backend = data.get("backend", "embedded")
    if backend != "embedded":
        raise ReplayError(f"{config}: battles of backend {backend!r} cannot be drawn, only the embedded simulator's")
    spec = load_scenario(data["scenario"]).spec(data.get("episode_limit"))
    module = _build(model, spec, config)
    if not callable(getattr(module, "act", None)) or not callable(getattr(module, "policy", None)):
        raise ReplayError(f"{config}: a {type(module).__name__} has no policy that could play")
    weights = _read_weights(checkpoint)
    _check_sizes(weights, module, checkpoint, f"{config} and the scenario {spec.scenario}")
    module.load_state_dict(weights)
    return module.eval(), spec


def _sections(config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and data of a run's configuration."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReplayError(f"{config}: no YAML ({' '.join(str(error).split())})") from None
    sections = content if isinstance(content, dict) else {}
    model, data = sections.get("model"), sections.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict) or "scenario" not in data:
        raise ReplayError(f"{config}: not the configuration of a run, for it has no model or no data.scenario")
    return model, data


def _build(model: dict[str, Any], spec: BattleSpec, config: Path) -> LightningModule:
    """The module as the command line builds it, with fresh weights."""
    arguments = dict(model.get("init_args") or {})
    arguments |= {name: 1 for name in LEARNING_STORES if name in arguments}
    arguments |= {name: getattr(spec, name) for name in DIMENSIONS}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    try:
        built = parser.instantiate(parser.parse_object({"model": model | {"init_args": arguments}}))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ReplayError(f"{config}: {' '.join(str(error).split())}") from None
    module: LightningModule = built.model
    return module


def _read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The parameters and buffers in a checkpoint; the rest of it, which can be a gigabyte of replay, stays on disk."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ReplayError(f"{checkpoint}: no checkpoint that can be read ({type(error).__name__})") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ReplayError(f"{checkpoint}: no checkpoint of a run, for it has no state_dict")
    weights: dict[str, Tensor] = content["state_dict"]
    return weights


def _check_sizes(weights: dict[str, Tensor], module: LightningModule, checkpoint: Path, source: str) -> None:
    """Raises ReplayError with the first parameter that the module does not have like that."""
    own = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in own | theirs:
        if own.get(name) != theirs.get(name):
            found, wanted = theirs.get(name, "missing"), own.get(name, "none")
            raise ReplayError(f"{checkpoint}: does not fit {source}: {name} is {found} and should be {wanted}")


class Witness:
    """Plays as a module does, and notes from what distribution each action of its one battle was chosen."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._actions: list[Tensor] = []
        self._available: list[Tensor] = []
        self._probabilities: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    def initial_hidden(self, num_battles: int) -> Tensor:
        hidden: Tensor = self.module.initial_hidden(num_battles)
        return hidden

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the module does; arguments as of ``Actor.act``, with E = 1."""
        logits, _ = self.module.policy(obs.unsqueeze(1), hidden)
        log_probs = masked_log_softmax(logits.squeeze(1), available_actions)
        actions, chosen, following = self.module.act(obs, available_actions, hidden, generator)
        self._actions.append(actions[0])
        self._available.append(available_actions[0].clone())  # the battle writes the next step's into it
        self._probabilities.append(log_probs[0].exp())
        return actions, chosen, following

    def decisions(self) -> Decisions:
        """All that was noted, in order."""
        columns = (self._actions, self._available, self._probabilities)
        arrays: list[np.ndarray] = [torch.stack(column).cpu().numpy() for column in columns]
        return Decisions(*arrays)
