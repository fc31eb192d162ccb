"""The script that plays by rules between greedy and sampled."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amal.types import EpisodeBatch
from tests.conftest import ROOT
from tests.runs import fit

SCRIPT = runpy.run_path(str(ROOT / "docs" / "greedy.py"))


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("sampled", {1, 2, 6, 7, 8}),
        ("sampled, temperature 0.5", {1, 2, 6, 7, 8}),
        ("sampled, best target", {1, 2, 8}),
        ("greedy, any of a tie", {2, 8}),
        ("greedy, targets together", {8}),
        ("greedy", {2}),
    ],
)
def test_each_rule_chooses_what_it_says(rule: str, allowed: set[int]) -> None:
    log_probs = torch.tensor([0.0, 0.07, 0.28, 0.0, 0.0, 0.0, 0.2, 0.18, 0.27]).log().expand(1, 500, 9)
    chosen = SCRIPT["RULES"][rule](log_probs, torch.Generator().manual_seed(0))
    assert chosen.shape == (1, 500) and set(chosen.unique().tolist()) == allowed


class TwoMinds(torch.nn.Module):
    """North is likeliest, the targets together are likelier."""

    def policy(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        likely = torch.tensor([1e-9, 1e-9, 0.4, 1e-9, 1e-9, 1e-9, 0.3, 0.3])
        return likely.log().expand(*obs.shape[:3], 8), hidden

    def initial_hidden(self, num_battles: int) -> Tensor:
        return torch.zeros(num_battles, 2, 0)


def test_behaviour_is_counted_among_the_living_in_reach() -> None:
    available = torch.ones(1, 5, 2, 8, dtype=torch.bool)
    available[..., 0] = False
    available[:, 0, :, 6:] = False  # nobody in reach at first
    available[:, 3:, 1] = torch.arange(8) == 0  # the second agent is dead in the last step
    actions = torch.tensor([[[2, 2], [3, 6], [6, 7], [7, 0]]])
    over = torch.tensor([[False, False, False, True]])
    batch = EpisodeBatch(
        obs=torch.zeros(1, 5, 2, 3), state=torch.zeros(1, 5, 4), available_actions=available, actions=actions,
        log_probs=torch.zeros(1, 4, 2), rewards=torch.ones(1, 4), terminated=~over & False, truncated=over,
        won=torch.tensor([False]), dead_allies=torch.tensor([1]), dead_enemies=torch.tensor([0]),
        mask=torch.ones(1, 4, dtype=torch.bool), progress=0.0,
    )  # fmt: skip
    found = SCRIPT["behaviour"](TwoMinds(), batch)
    assert (found["won"], found["return"], found["length"], found["limit"]) == (0, 4, 4, 1)
    assert found["in reach"] == 5 / 7  # of seven steps of the living
    assert found["attack"] == 4 / 5 and found["split"] == 1
    assert found["back"] == 1 / 5  # north, then south; a death is no move
    assert found["focus"] == 0.5  # one step with two attackers, who differ
    assert found["tie"] == 0 and found["alike"] == 1


def test_a_checkpoint_is_played_by_every_rule(
    cli: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("--data.env_steps=50", "--data.episodes_per_update=4", "--data.num_envs=4")
    run = fit(cli, tmp_path / "run", *tiny, "--evaluation.every_n_episodes=0")
    capsys.readouterr()
    SCRIPT["main"]([run / "checkpoints" / "last.ckpt"], battles=2)
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n{rule} ") == 2 for rule in SCRIPT["RULES"] if rule != "sampled") and "mean of 1" in shown
