"""AMAL's parts together: learning, resuming, the switches, and what it tells."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.mappo import MAPPO
from amal.networks.policies import GRUPolicy
from amal.networks.world_models import WorldModel
from amal.ops.information import EnsembleInformationGain
from callbacks import Evolution
from tests.algorithms.episodes import (
    SIZES,
    SMALL_CRITIC,
    SMALL_MLP,
    Batches,
    assert_identical,
    matching_game,
    parameters,
    random_batch,
    train,
)

SMALL_MODEL = partial(WorldModel, hidden_dims=(16, 16))
OFF: dict[str, Any] = {"lambda_info": 0.0, "num_auxiliary_agents": 0, "replay_coef": 0.0}


def small(seed: int = 0, **options: Any) -> AMAL:
    seed_everything(seed, verbose=False)
    defaults = {
        **{"policy": SMALL_MLP, "critic": SMALL_CRITIC, "world_model": SMALL_MODEL, "n_minibatch": 2},
        **{"world_model_steps": 2, "world_model_batch_size": 16, "replay_batch_size": 16, "imagination_starts": 4},
        **{"num_auxiliary_agents": 4, "cem_population_size": 10, "cem_elite_fraction": 0.4},
        **{"replay_capacity": 500, "auxiliary_capacity": 100},
    }
    return AMAL(**{**SIZES, **defaults, **options})


def evolving(frequency: int = 2) -> dict[str, Any]:
    return {"callbacks": [Evolution(frequency)]}


def test_learns_to_match_the_sign() -> None:
    """A random team scores 0.25, the best 1."""
    n_updates = 60
    module = small(lr=5e-3, n_minibatch=4)
    scores: list[float] = []
    generator = torch.Generator().manual_seed(0)
    train(module, lambda i: matching_game(module, generator, n_updates, scores, i), n_updates, trainer=evolving())
    assert scores[0] < 0.45
    assert sum(scores[-10:]) / 10 > 0.95


def test_with_everything_off_it_is_mappo_bit_for_bit() -> None:
    amal = small(**OFF)
    seed_everything(0, verbose=False)
    mappo = MAPPO(**SIZES, policy=SMALL_MLP, critic=SMALL_CRITIC, n_minibatch=2, lr=amal.lr)
    for module in (amal, mappo):
        train(module, random_batch, n_batches=4)
    ours = parameters(amal)
    assert_identical({name: ours[name] for name in parameters(mappo)}, parameters(mappo))


def test_the_critic_judges_rewards_and_the_policy_is_paid_the_bonus_too() -> None:
    """Else replayed steps, which come without a bonus, would be judged by values that expect one."""
    learned = []
    for weight in (0.0, 0.3):
        module = small(lambda_info=weight, information_bonus="raw", num_auxiliary_agents=0, replay_coef=0.0)
        train(module, random_batch, n_batches=1)
        learned.append(parameters(module))
    without, paid = learned
    assert_identical(*({k: v for k, v in each.items() if k.startswith(("critic", "value"))} for each in learned))
    assert not torch.equal(without["policy.layers.last.weight"], paid["policy.layers.last.weight"])


@pytest.mark.parametrize(
    "switch",
    [
        {"lambda_info": 0.0},
        {"num_auxiliary_agents": 0},
        {"replay_coef": 0.0},
        {"information_bonus": "raw"},
        {"information": EnsembleInformationGain, "ensemble_size": 2},
        {"isolation": False},
    ],
    ids=["no information", "no auxiliary agents", "no replay", "raw bonus", "information gain", "open gate"],
)
def test_every_switch_changes_what_is_learned(switch: dict[str, Any]) -> None:
    whole, without = small(), small(**switch)
    for module in (whole, without):
        train(module, random_batch, n_batches=3, trainer=evolving())
    changed = "world_model" if "isolation" in switch else "policy"
    ours, theirs = parameters(whole), parameters(without)
    weights = [name for name in theirs if name.startswith(changed) and name in ours]
    assert any(not torch.equal(ours[name], theirs[name]) for name in weights)


def test_same_seed_same_parameters() -> None:
    runs = []
    for seed in (3, 3, 4):
        module = small(seed)
        torch.rand(1 + len(runs))  # what others draw from the global stream must not matter
        train(module, random_batch, n_batches=3, trainer=evolving())
        runs.append(parameters(module))
    assert_identical(runs[0], runs[1])
    assert not torch.equal(runs[0]["policy.layers.last.weight"], runs[2]["policy.layers.last.weight"])


def test_resuming_continues_bit_for_bit(tmp_path: Path) -> None:
    """Three updates, a checkpoint and three more are six: memories, streams, evolution and all optimizers included."""
    whole = small()
    train(whole, random_batch, n_batches=6, trainer=evolving())

    first = small()
    train(first, random_batch, n_batches=3, trainer=evolving()).save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    second = small(seed=77)
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    rest = Trainer(accelerator="cpu", **options, **evolving())
    batches = DataLoader(Batches(lambda i: random_batch(i + 3), 3), batch_size=None)
    rest.fit(second, batches, ckpt_path=tmp_path / "half.ckpt")
    assert_identical(parameters(whole), parameters(second))
    ours, theirs = whole.replay.state_dict(), second.replay.state_dict()
    assert ours["written"] == theirs["written"] and ours["streams"] == theirs["streams"]
    assert_identical(ours["rows"], theirs["rows"])


def test_metrics_tell_how_every_part_does() -> None:
    metrics = train(small(), random_batch, n_batches=1, trainer=evolving()).logged_metrics
    names = {name.removeprefix("train/") for name in metrics}
    assert names >= {
        *("model_obs_loss", "model_available_loss", "model_state_loss", "model_reward_loss", "model_done_loss"),
        *("model_obs_error_1", "model_obs_trivial_error_1", "model_state_error_5", "model_state_trivial_error_5"),
        *("information", "information_std", "bonus_share", "isolation_kl"),
        *("importance_truncated", "replay_effective_share", "replay_imagined_share"),
        *("auxiliary_diversity", "auxiliary_distance", "auxiliary_diversity_to_first"),
        *("seconds_world_model", "seconds_information", "seconds_imagination", "seconds_replay", "seconds_policy"),
        *("policy_loss", "value_loss", "entropy", "return", "win_rate"),
    }
    assert 0 < metrics["train/replay_effective_share"] <= 1
    assert metrics["train/replay_imagined_share"] == pytest.approx(0.3, abs=0.05)
    assert metrics["train/auxiliary_diversity_to_first"] == 1
    assert metrics["train/isolation_kl"] == 0


def test_the_bonus_reaches_the_advantages_but_not_the_memory() -> None:
    module, batch = small(information_bonus="raw", lambda_info=100.0), random_batch(0)
    train(module, lambda i: batch, n_batches=1, trainer=evolving())
    remembered = module.replay.sample_primary(200).rewards
    assert torch.isin(remembered, batch.rewards).all()
    assert module.trainer.logged_metrics["train/bonus_share"] > 0
    assert module.trainer.logged_metrics["train/return"] == pytest.approx(batch.returns.mean().item())


def test_auxiliary_agents_are_evolved_on_schedule() -> None:
    generations = []

    class Watched(AMAL):
        def evolve(self, batch: Any) -> None:
            generations.append(self.replay.primary_size)
            super().evolve(batch)

    watched = small()
    watched.__class__ = Watched
    per_update = int(random_batch(0).mask.sum())
    train(watched, random_batch, n_batches=5, trainer=evolving(frequency=2))
    assert generations == [0, 2 * per_update, 4 * per_update]
    with pytest.raises(ValueError, match="MAPPO has no auxiliary agents"):
        train(MAPPO(**SIZES), random_batch, n_batches=1, trainer=evolving())


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("num_auxiliary_agents", -1, "at least 0"),
        ("num_auxiliary_agents", 5, "at most the elites of cem_population_size (4)"),
        ("replay_batch_size", 0, "at least 1"),
        ("lambda_info", -0.1, "at least 0"),
        ("aux_ratio", 1.5, "in [0, 1]"),
        ("bonus_std_floor", 0.0, "greater than 0"),
        ("information_bonus", "big", "'shaped' or 'raw'"),
        ("distance_band", (0.5, 0.1), "the lower one first"),
        ("policy", GRUPolicy, "feed-forward"),
        ("ensemble_size", 0, "at least 1"),
    ],
)
def test_arguments_are_checked(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError) as error:
        small(**{argument: value})
    assert str(error.value).startswith(f"{argument} must be")
    assert allowed in str(error.value)


def test_information_gain_needs_an_ensemble() -> None:
    with pytest.raises(ValueError, match="ensemble_size must be at least 2 for EnsembleInformationGain, got 1"):
        small(information=EnsembleInformationGain)
