"""Budgets, random streams and the state of the data module."""

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.types import EpisodeBatch
from datamodules import RolloutDataModule
from tests.datamodules.playing import evaluate, play


def data_module(seed: int = 0, **options: int | str | None) -> RolloutDataModule:
    torch.manual_seed(seed)
    data = RolloutDataModule(
        **{"scenario": "3m", "env_steps": 2000, "num_envs": 4, "episodes_per_update": 8, **options}
    )
    model = MAPPO(data.n_agents, data.n_actions, data.obs_dim, data.state_dim)
    data.trainer = SimpleNamespace(lightning_module=model)
    return data


def test_training_ends_with_the_first_update_that_reaches_the_env_steps() -> None:
    data = data_module(env_steps=500)
    steps = [int(batch.mask.sum()) for batch in data.train_dataloader()]
    assert sum(steps[:-1]) < 500 <= sum(steps) == data.budget.env_steps


def test_a_budget_of_episodes_is_met_exactly() -> None:
    data = data_module(env_steps=None, episodes=20)
    assert [len(batch.mask) for batch in data.train_dataloader()] == [8, 8, 4]
    assert data.budget.episodes == 20 and data.budget.progress == 1.0


def test_a_batch_tells_the_share_of_the_budget_used_before_it() -> None:
    data = data_module(env_steps=None, episodes=16)
    assert [batch.progress for batch in data.train_dataloader()] == [0.0, 0.5]


def test_the_policy_of_the_moment_plays() -> None:
    """The batch after an update is played by the updated policy, not by one that was fetched ahead."""
    data = data_module()
    module: MAPPO = data.trainer.lightning_module  # type: ignore[union-attr, assignment]
    for batch in data.train_dataloader():
        logits, _ = module.policy(batch.obs[:, :-1], module.initial_hidden(len(batch.mask)))
        available = batch.available_actions[:, :-1]
        log_probs = torch.log_softmax(logits.masked_fill(~available, -torch.inf), -1)
        chosen = log_probs.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(chosen[batch.mask], batch.log_probs[batch.mask], atol=1e-4)
        with torch.no_grad():
            for parameter in module.policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_equal_seeds_play_equal_episodes_and_others_do_not() -> None:
    actions = [play(data_module(seed)).actions.clone() for seed in (0, 0, 1)]
    assert torch.equal(actions[0], actions[1])
    assert actions[0].shape != actions[2].shape or not torch.equal(actions[0], actions[2])


def test_evaluations_leave_training_untouched() -> None:
    plain, evaluated = data_module(), data_module()
    play(plain)
    play(evaluated)
    greedy = list(evaluate(evaluated, number=3))
    sampled = list(evaluate(evaluated, number=3, sampled=True))
    assert torch.equal(next(evaluate(evaluated, number=3)).actions, greedy[0].actions)
    assert torch.equal(play(plain).obs, play(evaluated).obs)
    assert sum(len(part.won) for part in greedy) == sum(len(part.won) for part in sampled) == 32


def test_a_sampling_team_is_evaluated_on_the_battles_of_the_greedy_one() -> None:
    """With actions that depend on the seed and on how far training is, on nothing else that was drawn."""
    data, other = data_module(scenario="terran_5_vs_5"), data_module(seed=1, scenario="terran_5_vs_5")
    other.trainer = data.trainer  # so that the same team plays
    greedy, (sampled,), (again,) = (list(evaluate(data, sampled=sampled)) for sampled in (False, True, True))
    assert torch.equal(sampled.state[:, 0], greedy[0].state[:, 0])
    assert torch.equal(sampled.actions, again.actions)
    first_actions = [sampled.actions[:, 0], greedy[0].actions[:, 0], next(evaluate(other, sampled=True)).actions[:, 0]]
    play(data)
    first_actions.append(next(evaluate(data, sampled=True)).actions[:, 0])
    assert distinct_tensors(first_actions) == 4


def first_states(batches: Iterable[EpisodeBatch]) -> list[Tensor]:
    """[B, S] of each batch: how its battles begin. In a family none begins as another does."""
    return [batch.state[:, 0].clone() for batch in batches]


def distinct_tensors(tensors: list[Tensor]) -> int:
    return len(torch.stack(tensors).unique(dim=0))


def distinct(starts: list[Tensor]) -> int:
    return len(torch.cat(starts).unique(dim=0))


def test_test_episodes_are_320_other_ones_than_those_of_evaluations() -> None:
    """Played greedily, then with sampled actions."""
    data = data_module(scenario="terran_5_vs_5", episode_limit=1)
    batches = list(data.test_dataloader())
    assert [batch.greedy for batch in batches] == [True] * 10 + [False] * 10
    tested, sampled = first_states(batches[:10]), first_states(batches[10:])
    assert [len(starts) for starts in tested] == [32] * 10 and torch.equal(torch.cat(tested), torch.cat(sampled))
    evaluated = first_states(evaluate(data))
    assert distinct([*tested, *evaluated]) == 320 + 32
    assert torch.equal(torch.cat(first_states(data.test_dataloader())[:10]), torch.cat(tested))


def test_each_evaluation_has_battles_of_its_own_and_always_the_same() -> None:
    data = data_module(scenario="terran_5_vs_5", episode_limit=1)
    numbered = [first_states(evaluate(data, number=number)) for number in (0, 1, 2)]
    assert distinct(sum(numbered, [])) == 3 * 32
    assert torch.equal(first_states(evaluate(data, number=1))[0], numbered[1][0])


def test_evaluations_play_greedily_and_training_does_not() -> None:
    data = data_module()
    module: MAPPO = data.trainer.lightning_module  # type: ignore[union-attr, assignment]
    with torch.no_grad():
        for parameter in module.policy.parameters():  # so that no two actions are worth nearly the same
            parameter.add_(0.1 * torch.randn_like(parameter))

    def greedy_share(batch: EpisodeBatch) -> float:
        logits, _ = module.policy(batch.obs[:, :-1], module.initial_hidden(len(batch.mask)))
        best = logits.masked_fill(~batch.available_actions[:, :-1], -torch.inf).argmax(dim=-1)
        return float((best == batch.actions)[batch.alive].float().mean())

    assert [greedy_share(batch) for batch in evaluate(data)] == [1.0]
    assert greedy_share(play(data)) < 0.9


def test_saved_state_continues_as_if_never_interrupted() -> None:
    data = data_module()
    play(data)
    state = data.state_dict()
    resumed = data_module()
    resumed.load_state_dict(state)
    assert (resumed.budget.env_steps, resumed.budget.episodes) == (data.budget.env_steps, data.budget.episodes)
    expected, got = play(data), play(resumed)
    assert torch.equal(expected.actions, got.actions) and torch.equal(expected.obs, got.obs)


def test_sizes_are_the_scenarios() -> None:
    data = data_module(scenario="2s3z")
    assert (data.n_agents, data.n_actions, data.obs_dim, data.state_dim) == (5, 11, 80, 120)
    batch = play(data)
    assert batch.obs.dtype == torch.float32 and np.isfinite(batch.obs.numpy()).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env_steps": 10, "episodes": 10}, "env_steps and episodes are both set"),
        ({"env_steps": 0}, "env_steps must be at least 1, got 0"),
        ({"num_envs": 9}, r"num_envs must be at most episodes_per_update \(8\), got 9"),
        ({"episodes_per_update": 0, "num_envs": 0}, "episodes_per_update must be at least 1"),
        ({"episode_limit": -1}, "episode_limit must be at least 1, got -1"),
        ({"scenario": "2s3x"}, "unknown scenario '2s3x' .did you mean 2s3z"),
    ],
)
def test_impossible_settings_are_refused_by_name(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data_module(**options)


def test_training_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="--data.env_steps or --data.episodes"):
        len(data_module(env_steps=None).train_dataloader().dataset)  # type: ignore[arg-type]
