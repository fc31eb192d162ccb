"""Does a world model with a memory expect better? The shipped one and one with a GRU learn from the same real battles.

Usage: python docs/recurrent_world_model.py LAST_CKPT, the checkpoint of an AMAL run, whose real steps it holds
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from amal.networks.world_models import Prediction, WorldModel, combined, world_model_losses
from amal.ops.losses import masked_mean
from amal.replay import REAL, RealExperience
from amal.runtime.distributed import of_this_process

SEEDS, STEPS, HELD_OUT, LEARNING_RATE, GRADIENT_NORM = 3, 1000, 0.1, 3e-4, 10.0
TRANSITIONS, EPISODES = 256, 5  # of a step: transitions drawn singly, or whole episodes, which are as many


class Memory(nn.Module):
    """The last layer of an encoder: what an agent has seen since its episode began."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(size, size, batch_first=True)
        self.episodes, self.n_agents = 1, 1  # of which the next rows are, [episodes · T · n_agents, size]

    def forward(self, rows: Tensor) -> Tensor:
        steps = rows.view(self.episodes, -1, self.n_agents, rows.shape[-1])
        remembered, _ = self.gru(steps.transpose(1, 2).flatten(0, 1))
        return remembered.unflatten(0, (self.episodes, self.n_agents)).transpose(1, 2).flatten(0, 2)


class RecurrentWorldModel(WorldModel):
    """The shipped one, with a GRU of 256 behind an encoder of 256-256."""

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, hidden_dims=(256, 256))
        self.memory = Memory(256)
        self.memory.n_agents = n_agents
        self.encoder.append(self.memory)

    def expectation(self, episodes: list[RealExperience]) -> tuple[Prediction, RealExperience]:
        """What it expects in each step of the episodes, from their beginnings, and what happened; without padding."""
        length = max(map(len, episodes))
        padded = [replace(e, **{f.name: _padded(getattr(e, f.name), length) for f in fields(e)}) for e in episodes]
        whole, happened = (
            RealExperience.concatenate(padded),
            torch.cat([torch.arange(length) < len(e) for e in episodes]),
        )
        self.memory.episodes = len(episodes)
        prediction = self(whole.obs, whole.state, whole.actions, whole.alive)
        return _some(prediction, happened), whole[happened]


class SingleSteps(WorldModel):
    """The shipped one."""

    def expectation(self, episodes: list[RealExperience]) -> tuple[Prediction, RealExperience]:
        """What it expects in each step, and what happened."""
        whole = RealExperience.concatenate(episodes)
        return self(whole.obs, whole.state, whole.actions, whole.alive), whole


class WholeEpisodes(SingleSteps):
    """The shipped one, learning from the same steps as the one with a memory."""


class LargerSingleSteps(SingleSteps):
    """As many layers and parameters as the one with a memory, or more."""

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, hidden_dims=(256, 512, 512, 256))


def _padded(column: Tensor, length: int) -> Tensor:
    padding = column.new_zeros(length - len(column), *column.shape[1:])
    return torch.cat([column, padding + REAL if column.dtype == torch.int64 and column.dim() == 1 else padding])


def _some(prediction: Prediction, rows: Tensor) -> Prediction:
    return Prediction(**{f.name: getattr(prediction, f.name)[rows] for f in fields(Prediction)})


def lived(checkpoint: Path) -> list[RealExperience]:
    """The episodes that a run's replay buffer holds, in the order in which they were played."""
    state = of_this_process(torch.load(checkpoint, weights_only=True, mmap=True)["learning_state"])["replay_buffer"]
    if state["written"][0] > state["sizes"]["capacity"]:
        raise SystemExit(f"error: the run of {checkpoint} was longer than its replay buffer: its episodes are cut")
    steps = RealExperience(**{name: column[: state["written"][0]] for name, column in state["rows"].items()})
    begins = (steps.state[1:] != steps.next_state[:-1]).any(dim=-1).nonzero().squeeze(-1) + 1
    bounds = [0, *begins.tolist(), len(steps)]
    return [steps[torch.arange(a, b)] for a, b in zip(bounds, bounds[1:], strict=False)]


def draws(
    model: WorldModel, episodes: list[RealExperience], generator: torch.Generator
) -> Iterator[list[RealExperience]]:
    """What each step learns from: single transitions, or whole episodes."""
    whole = RealExperience.concatenate(episodes)
    while True:
        if isinstance(model, RecurrentWorldModel | WholeEpisodes):
            yield [episodes[i] for i in torch.randint(len(episodes), (EPISODES,), generator=generator).tolist()]
        else:
            yield [whole[torch.randint(len(whole), (TRANSITIONS,), generator=generator)]]


@torch.no_grad()
def errors(model: RecurrentWorldModel | SingleSteps, episodes: list[RealExperience]) -> dict[str, float]:
    """Mean squared errors of the means one step ahead ÷ those of expecting no change, on all the episodes."""
    prediction, real = model.expectation(episodes)
    living = real.alive & real.next_available_actions[..., 1:].any(dim=-1)  # the dead see nothing, which is known
    obs, still = ((x - real.next_obs).square().mean(dim=-1) for x in (prediction.obs_mean, real.obs))
    state, same = ((x - real.next_state).square().mean() for x in (prediction.state_mean, real.state))
    return {"obs": (masked_mean(obs, living) / masked_mean(still, living)).item(), "state": (state / same).item()}


def main(checkpoint: Path) -> None:
    episodes = lived(checkpoint)
    sizes = (*episodes[0].available_actions.shape[1:], episodes[0].obs.shape[-1], episodes[0].state.shape[-1])
    rows = []
    for seed in range(SEEDS):
        order = torch.randperm(len(episodes), generator=torch.Generator().manual_seed(seed)).tolist()
        cut = round(HELD_OUT * len(order))
        held_out, known = ([episodes[i] for i in part] for part in (order[:cut], order[cut:]))
        for kind in (SingleSteps, LargerSingleSteps, WholeEpisodes, RecurrentWorldModel):
            torch.manual_seed(seed)
            model = kind(*sizes)
            optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
            batches = draws(model, known, torch.Generator().manual_seed(seed))
            for step in range(1, STEPS + 1):
                optimizer.zero_grad()
                combined(world_model_losses(*model.expectation(next(batches)))).backward()
                nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
                optimizer.step()
                if step % (STEPS // 4) == 0:
                    rows.append({"model": kind.__name__, "steps": step, "seed": seed, **errors(model, held_out)})
    table = pd.DataFrame(rows).drop(columns="seed").groupby(["model", "steps"], sort=False).agg(["mean", "std"])
    print(f"{len(episodes)} episodes, {sum(map(len, episodes))} steps, {HELD_OUT:.0%} of the episodes held out")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
