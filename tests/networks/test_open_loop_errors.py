"""Errors of a world model that predicts from its own predictions, by hand."""

import math

import pytest
import torch
from torch import Tensor

from amal.networks.world_model_ensemble import open_loop_errors
from amal.networks.world_models import ImaginedStep


class Drift:
    """Every feature grows by a given amount per step, and agent 0 by the number of its action in the first one."""

    def __init__(self, drift: float) -> None:
        self.drift = drift

    def predict(
        self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor, generator: torch.Generator | None = None
    ) -> ImaginedStep:
        assert generator is None
        next_obs = obs + self.drift
        next_obs[:, 0, 0] += actions[:, 0]
        available = torch.stack([~alive, alive], dim=-1)
        return ImaginedStep(next_obs, state + self.drift, obs.new_zeros(len(obs)), alive.new_zeros(len(obs)), available)


def drifting_episode(model: Drift) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One episode of four steps with two agents, of whom the second is dead at the end."""
    actions = torch.tensor([[[1, 0], [0, 0], [2, 0], [0, 0]]])
    obs, state = [torch.zeros(1, 2, 2)], [torch.zeros(1, 1)]
    alive = torch.ones(1, 2, dtype=torch.bool)
    for t in range(4):
        step = model.predict(obs[-1], state[-1], actions[:, t], alive)
        obs.append(step.next_obs)
        state.append(step.next_state)
    available = torch.zeros(1, 5, 2, 2, dtype=torch.bool)
    available[..., 1] = True
    available[:, 4, 1] = torch.tensor([True, False])
    return torch.stack(obs, dim=1), torch.stack(state, dim=1), available, actions


def test_open_loop_errors_by_hand() -> None:
    model = Drift(0.5)
    obs, state, available, actions = drifting_episode(model)
    obs[:, 4, 1] = math.nan  # the dead agent
    errors = open_loop_errors(model, obs, state, available, actions, horizon=2)
    # windows from 0, 1 and 2; in two steps everything grows by 1, and agent 0's first feature by 1, 2 and 2 more
    agent_0 = [(2**2 + 1) / 2, (3**2 + 1) / 2, (3**2 + 1) / 2]
    expected = {"obs": 0.0, "obs_trivial": (sum(agent_0) + 1 + 1) / 5, "state": 0.0, "state_trivial": 1.0}
    assert {name: error.item() for name, error in errors.items()} == pytest.approx(expected)
    wrong = open_loop_errors(Drift(0.25), obs, state, available, actions, horizon=4)
    assert wrong["obs"] == wrong["state"] == 1.0  # 4 · 0.25 behind
    assert wrong["state_trivial"] == 4.0


def test_open_loop_errors_are_of_windows_that_happened_in_full() -> None:
    model = Drift(0.5)
    obs, state, available, actions = drifting_episode(model)
    state[:, 3:] = math.nan  # padding
    happened = torch.tensor([[True, True, False, False]])
    errors = open_loop_errors(model, obs, state, available, actions, 2, happened)
    assert errors["state"] == 0 and errors["state_trivial"] == 1
    errors = open_loop_errors(model, obs, state, available, actions, 3, happened)
    assert all(error.isnan() for error in errors.values())
