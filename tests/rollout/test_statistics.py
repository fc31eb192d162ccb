"""What an evaluation measures, on episodes made by hand."""

from __future__ import annotations

import pytest
import torch

from amal.rollout.statistics import BattleStatistics
from amal.types import EpisodeBatch


def episodes(
    lengths: list[int], ends: list[str], dead_allies: list[int], dead_enemies: list[int], greedy: bool = True
) -> EpisodeBatch:
    """Episodes of two agents, with a reward of 1 in every step and more in the padding."""
    b, t = len(lengths), max(lengths)
    mask = torch.arange(t) < torch.tensor(lengths)[:, None]
    last = torch.arange(t) == torch.tensor(lengths)[:, None] - 1
    truncated = torch.tensor([end == "truncated" for end in ends])
    return EpisodeBatch(
        obs=torch.zeros(b, t + 1, 2, 3),
        state=torch.zeros(b, t + 1, 4),
        available_actions=torch.ones(b, t + 1, 2, 5, dtype=torch.bool),
        actions=torch.zeros(b, t, 2, dtype=torch.int64),
        log_probs=torch.zeros(b, t, 2),
        rewards=torch.where(mask, 1.0, 100.0),
        terminated=last & ~truncated[:, None],
        truncated=last & truncated[:, None],
        mask=mask,
        won=torch.tensor([end == "won" for end in ends]),
        dead_allies=torch.tensor(dead_allies),
        dead_enemies=torch.tensor(dead_enemies),
        progress=0.0,
        greedy=greedy,
    )


def test_a_truncated_battle_is_no_victory_and_every_mean_is_over_episodes() -> None:
    statistics = BattleStatistics()
    statistics.update(episodes([4, 2, 6], ["won", "lost", "truncated"], [0, 2, 1], [2, 1, 2]))
    statistics.update(episodes([8], ["truncated"], [1], [1]))
    found = {name: float(value) for name, value in statistics.compute().items()}
    assert found == pytest.approx(
        {
            "win_rate": 1 / 4,
            "return_mean": 5.0,
            "return_std": 5**0.5,
            "episode_length": 5.0,
            "dead_allies": 1.0,
            "dead_enemies": 1.5,
        }
    )


def test_sampled_episodes_have_a_win_rate_of_their_own_and_change_no_greedy_one() -> None:
    statistics = BattleStatistics()
    statistics.update(episodes([4, 2], ["won", "lost"], [0, 2], [2, 1]))
    greedy = {name: float(value) for name, value in statistics.compute().items()}
    statistics.update(episodes([3, 3, 9], ["won", "won", "lost"], [0, 0, 2], [2, 2, 0], greedy=False))
    statistics.update(episodes([1], ["won"], [0], [2], greedy=False)[:1].to("cpu"))  # which forget no mark
    sampled = {"sampled_win_rate": 3 / 4, "sampled_return_mean": 4.0}
    found = {name: float(value) for name, value in statistics.compute().items()}
    assert found == pytest.approx(greedy | sampled)
