"""What a world model is worth to a policy: imagined returns and policy gradients beside the simulator's.

Usage: python docs/imagined_returns.py CHECKPOINT... [--out scatter.png], of AMAL with an entity-wise model. From the
same real moments of fresh battles the team acts in the simulator twice, with different chances, and in its world model.
Prints a row per checkpoint and horizon; the figure has the returns of the longest. The share of the gradient is the
imagined one's length along the simulator's, 1 without error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Generator, Tensor

from amal.algorithms.amal import AMAL
from amal.algorithms.amal.imagination import imagine
from amal.algorithms.amal.imagined_battles import ImaginedBattles, SimulatedBattles, modelled_battles
from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.replay import AsymmetricReplayBuffer
from amal.rollout.collector import EpisodeRecorder
from amal.rollout.load_policy import load_player
from amal.types import EpisodeBatch

HORIZONS = (4, 8, 16)
EPISODES, SEED, STARTS, BATCHES = 256, 2000, 1024, 16


def fresh_moments(team: AMAL, scenario: Scenario) -> AsymmetricReplayBuffer:
    """Real steps of battles that the world model has not learned from."""
    battle = VectorBattle(scenario, 16, seed=SEED, auto_reset=False)
    batch = EpisodeRecorder(battle, EPISODES, snapshots=True).play(team, EPISODES, Generator().manual_seed(SEED))
    sizes = {name: getattr(battle.spec, name) for name in ("n_agents", "obs_dim", "state_dim", "n_actions")}
    size = int(batch.snapshots.shape[-1])
    buffer = AsymmetricReplayBuffer(int(batch.mask.sum()), **sizes, num_auxiliary_agents=0, snapshot_size=size)
    buffer.add_primary_episodes(batch)
    return buffer


def policy_gradient(team: AMAL, episodes: EpisodeBatch) -> Tensor:
    """Of the surrogate on all steps at once, without the entropy bonus."""
    transitions, _ = team.estimate_advantages(episodes, is_real=False)
    (everything,) = team.minibatches(episodes, transitions, 1, 1)
    lived = transitions[everything.steps]
    logits = team.policy.at_rows(lived.obs, everything.rows, everything.batch_sizes)
    loss, _ = team.policy_loss(logits, lived.at_rows(everything.rows))
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(team.policy.parameters()))])


def lived_through(
    team: AMAL, battles: ImaginedBattles, buffer: AsymmetricReplayBuffer, horizon: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Rewards added up [STARTS · BATCHES] and the mean gradient, from the same moments whatever the battles."""
    stream = np.random.default_rng(SEED)
    generator = Generator().manual_seed(seed)
    assert team.averaged_model is not None
    returns, gradients = [], []
    for _ in range(BATCHES):
        moments = buffer.sample_sequences(STARTS, team.averaged_model.past + 1, stream=stream)
        episodes = imagine(battles, team, moments, horizon, generator, 1.0)
        returns.append(episodes.rewards.sum(dim=1))
        gradients.append(policy_gradient(team, episodes))
    return torch.cat(returns), torch.stack(gradients).mean(dim=0)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def compare(checkpoint: Path, axes: Axes) -> pd.DataFrame:
    """A row per horizon; draws the returns of the longest."""
    team, scenario = load_player(checkpoint)
    if not isinstance(team, AMAL) or team.averaged_model is None or team.averaged_model.is_flat:
        raise SystemExit(f"error: {checkpoint} is not of AMAL with an entity-wise world model")
    team.entropy_coef = team.entropy_floor = 0.0
    buffer, rows = fresh_moments(team, scenario), []
    for horizon in HORIZONS:
        kinds = (SimulatedBattles(scenario), SimulatedBattles(scenario), modelled_battles(team.averaged_model, None))
        lived = [lived_through(team, battles, buffer, horizon, seed) for seed, battles in enumerate(kinds)]
        (ours, our_gradient), (again, gradient_again), (imagined, imagined_gradient) = lived
        rows.append(
            {
                "checkpoint": checkpoint.parent.parent.name,
                "horizon": horizon,
                "mean real return": ours.mean().item(),
                "mean imagined return": imagined.mean().item(),
                "returns, real and real": correlation(ours, again),
                "returns, real and imagined": correlation(ours, imagined),
                "gradients, real and real": F.cosine_similarity(our_gradient, gradient_again, dim=0).item(),
                "gradients, real and imagined": F.cosine_similarity(our_gradient, imagined_gradient, dim=0).item(),
                # of two independent batches, whose noise would make lengths too long
                "share of the gradient": ((imagined_gradient @ our_gradient) / (gradient_again @ our_gradient)).item(),
            }
        )
    axes.scatter(ours, imagined, s=2, alpha=0.3)
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes.set(
        title=checkpoint.parent.parent.name, xlabel=f"real return of {HORIZONS[-1]} steps", ylabel="imagined return"
    )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    figure, panels = plt.subplots(1, len(given.checkpoints), figsize=(4 * len(given.checkpoints), 4), squeeze=False)
    tables = [compare(checkpoint, axes) for checkpoint, axes in zip(given.checkpoints, panels[0], strict=True)]
    print(pd.concat(tables).to_string(index=False, float_format="{:.3f}".format))
    if given.out is not None:
        figure.tight_layout()
        figure.savefig(given.out, dpi=120)
