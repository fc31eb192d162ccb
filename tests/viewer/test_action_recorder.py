"""Recorded actions are those of an algorithm's rollouts, with the probabilities that they had."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from amal.algorithms.amal import AMAL, Auxiliaries
from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.networks.policies import GRUPolicy
from amal.rollout.collector import EpisodeRecorder, record_battle
from amal.rollout.load_policy import load_player
from amal.viewer.action_recorder import ActionRecorder


def save(folder: Path, module: MAPPO, init_args: dict[str, Any], scenario: str = "3m") -> Path:
    """A checkpoint of a module beside its configuration, as a run leaves them."""
    (folder / "checkpoints").mkdir()
    model = {"class_path": f"{type(module).__module__}.{type(module).__name__}", "init_args": init_args}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"scenario": scenario}}))
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "best.ckpt")
    return folder / "checkpoints" / "best.ckpt"


def sizes(scenario: str) -> dict[str, int]:
    spec = load_scenario(scenario).spec()
    return {name: getattr(spec, name) for name in ("n_agents", "n_actions", "obs_dim", "state_dim")}


@pytest.mark.parametrize("kind", ["gru", "independent", "amal"])
def test_every_algorithm_plays_as_in_its_rollouts(tmp_path: Path, kind: str) -> None:
    dims = sizes("3m")
    if kind == "gru":
        init_args: dict[str, Any] = {"policy": {"class_path": "amal.networks.GRUPolicy"}}
        module = MAPPO(**dims, policy=GRUPolicy)
    elif kind == "independent":
        init_args = {"share_parameters": False}
        module = MAPPO(**dims, share_parameters=False)
    else:
        agents = {"num_auxiliary_agents": 2, "cem_population_size": 10}
        module = AMAL(**dims, auxiliaries=Auxiliaries(**agents))  # type: ignore[arg-type]
        # more than any machine has: playing must not ask for it
        init_args = {"auxiliaries": agents, "world_model": {"buffer_size": 10**12}}
    checkpoint = save(tmp_path, module, init_args)
    player, scenario = load_player(checkpoint, tmp_path / "config.yaml")
    recorder = ActionRecorder(player)
    batch = EpisodeRecorder(VectorBattle("3m", 1, 0, auto_reset=False), 1).play(recorder, 1)
    chosen = recorder.chosen()
    np.testing.assert_array_equal(chosen.actions, batch.actions[0])
    np.testing.assert_array_equal(chosen.available_actions, batch.available_actions[0, :-1])
    assert chosen.kind == "probability" and chosen.scores is not None
    np.testing.assert_allclose(chosen.scores.sum(axis=-1), 1.0, atol=1e-5)
    assert (chosen.scores[~chosen.available_actions] == 0).all()
    probability = np.take_along_axis(chosen.scores, chosen.actions[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(probability, batch.log_probs[0].exp(), rtol=1e-5)
    trained: Any = module
    np.testing.assert_array_equal(
        record_battle(trained, scenario, 0)[1], record_battle(ActionRecorder(player), scenario, 0)[1]
    )


def test_scores_in_some_steps_only_are_refused() -> None:
    module = MAPPO(**sizes("3m"))
    scores = itertools.cycle([module.action_scores, lambda *_: None])
    module.action_scores = lambda *args: next(scores)(*args)  # type: ignore[method-assign]
    recorder = ActionRecorder(module)
    record_battle(recorder, load_scenario("3m"), 0)
    with pytest.raises(ValueError, match="MAPPO.action_scores: not of one kind in all steps of a battle"):
        recorder.chosen()
