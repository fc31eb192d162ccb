"""AMAL's parts together: learning, resuming, the switches, and what it tells."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from amal.algorithms.amal import AMAL, Auxiliaries, InformationBonus, OffPolicyReplay, WorldModelLearning
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

SMALL: dict[str, Any] = {
    "world_model": WorldModelLearning(
        model=partial(WorldModel, hidden_dims=(16, 16)), steps=2, batch_size=16, buffer_size=500
    ),
    "information": InformationBonus(),
    "auxiliaries": Auxiliaries(
        num_auxiliary_agents=4,
        evolution_frequency=2,
        auxiliary_buffer_size=100,
        imagination_starts=4,
        cem_population_size=10,
        cem_elite_fraction=0.4,
    ),
    "replay": OffPolicyReplay(batch_size=16),
}
ALONE: dict[str, Any] = {"information": None, "auxiliaries": None, "replay": None}  # the world model, of no use


def small(seed: int = 0, **options: Any) -> AMAL:
    """Of small parts; options of a part are given as a dict."""
    seed_everything(seed, verbose=False)
    for name, changes in options.items():
        if name in SMALL and isinstance(changes, dict):
            options[name] = replace(SMALL[name], **changes)
    networks = {"policy": SMALL_MLP, "critic": SMALL_CRITIC, "n_minibatch": 2}
    return AMAL(**{**SIZES, **networks, **SMALL, **options})


def evolving() -> dict[str, Any]:
    return {"callbacks": [Evolution()]}


def test_learns_to_match_the_sign() -> None:
    """A random team scores 0.25, the best 1."""
    n_updates = 60
    module = small(lr=5e-3, n_minibatch=4)
    scores: list[float] = []
    generator = torch.Generator().manual_seed(0)
    train(module, lambda i: matching_game(module, generator, n_updates, scores, i), n_updates, trainer=evolving())
    assert scores[0] < 0.45
    assert sum(scores[-10:]) / 10 > 0.95


@pytest.mark.parametrize("off", [ALONE, {**ALONE, "world_model": None}], ids=["world model alone", "nothing"])
def test_with_everything_off_it_is_mappo_bit_for_bit(off: dict[str, Any]) -> None:
    amal = small(**off)
    seed_everything(0, verbose=False)
    mappo = MAPPO(**SIZES, policy=SMALL_MLP, critic=SMALL_CRITIC, n_minibatch=2, lr=amal.lr)
    for module in (amal, mappo):
        train(module, random_batch, n_batches=4)
    ours = parameters(amal)
    assert_identical({name: ours[name] for name in parameters(mappo)}, parameters(mappo))


def test_the_critic_judges_rewards_and_the_policy_is_paid_the_bonus_too() -> None:
    """Else replayed steps, which come without a bonus, would be judged by values that expect one."""
    learned = []
    for bonus in (None, InformationBonus(form="raw")):
        module = small(**{**ALONE, "information": bonus})
        train(module, random_batch, n_batches=1)
        learned.append(parameters(module))
    without, paid = learned
    assert_identical(*({k: v for k, v in each.items() if k.startswith(("critic", "value"))} for each in learned))
    assert not torch.equal(without["policy.layers.last.weight"], paid["policy.layers.last.weight"])


@pytest.mark.parametrize(
    "switch",
    [
        {"information": None},
        {"auxiliaries": None},
        {"auxiliaries": None, "replay": None},
        {"information": {"form": "raw"}},
        {"information": {"estimator": EnsembleInformationGain}, "world_model": {"ensemble_size": 2}},
        {"world_model": {"isolation": False}},
    ],
    ids=["no information", "no auxiliary agents", "no replay", "raw bonus", "information gain", "open gate"],
)
def test_every_switch_changes_what_is_learned(switch: dict[str, Any]) -> None:
    whole, without = small(), small(**switch)
    for module in (whole, without):
        train(module, random_batch, n_batches=3, trainer=evolving())
    changed = "world_model" if switch == {"world_model": {"isolation": False}} else "policy"
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
    ours, theirs = whole.replay_buffer.state_dict(), second.replay_buffer.state_dict()
    assert ours["written"] == theirs["written"] and ours["streams"] == theirs["streams"]
    assert_identical(ours["rows"], theirs["rows"])


def test_metrics_tell_how_every_part_does() -> None:
    metrics = train(small(), random_batch, n_batches=1, trainer=evolving()).callback_metrics
    names = {name.removeprefix("train/") for name in metrics}
    assert names >= {
        *("model_obs_loss", "model_available_loss", "model_state_loss", "model_reward_loss", "model_done_loss"),
        *("model_obs_error_1", "model_obs_trivial_error_1", "model_state_error_5", "model_state_trivial_error_5"),
        *("information", "information_std", "bonus_share", "isolation_kl"),
        *("importance_truncated", "replay_effective_share", "replay_imagined_share"),
        *("auxiliary_diversity", "auxiliary_distance", "auxiliary_diversity_to_first"),
        *("policy_loss", "value_loss", "entropy", "return", "win_rate"),
    }
    assert 0 < metrics["train/replay_effective_share"] <= 1
    assert metrics["train/replay_imagined_share"] == pytest.approx(0.3, abs=0.05)
    assert metrics["train/auxiliary_diversity_to_first"] == 1
    assert metrics["train/isolation_kl"] == 0


def test_the_bonus_reaches_the_advantages_but_not_the_memory() -> None:
    module, batch = small(information={"form": "raw", "lambda_info": 100.0}), random_batch(0)
    train(module, lambda i: batch, n_batches=1, trainer=evolving())
    remembered = module.replay_buffer.sample_primary(200).rewards
    assert torch.isin(remembered, batch.rewards).all()
    assert module.trainer.callback_metrics["train/bonus_share"] > 0
    assert module.trainer.callback_metrics["train/return"] == pytest.approx(batch.returns.mean().item())


def test_auxiliary_agents_are_evolved_on_schedule() -> None:
    generations = []

    class Watched(AMAL):
        def evolve(self, batch: Any) -> None:
            generations.append(self.replay_buffer.primary_size)
            super().evolve(batch)

    watched = small(auxiliaries={"evolution_frequency": 2})
    watched.__class__ = Watched
    per_update = int(random_batch(0).mask.sum())
    train(watched, random_batch, n_batches=5, trainer=evolving())
    assert generations == [0, 2 * per_update, 4 * per_update]


def test_agents_that_were_never_evolved_do_not_act() -> None:
    with pytest.raises(RuntimeError, match=r"never evolved: the trainer needs callbacks\.Evolution\(\)"):
        train(small(), random_batch, n_batches=1)
    for module in (small(auxiliaries=None), MAPPO(**SIZES)):  # without any it makes no difference
        train(module, random_batch, n_batches=1, trainer=evolving())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world_model": None}, "information must be null without a world_model"),
        ({**ALONE, "world_model": None, "replay": OffPolicyReplay()}, "replay must be null without a world_model"),
        ({"replay": None}, "auxiliaries must be null without replay"),
        ({"auxiliaries": None, "world_model": {"isolation": False}}, "isolation must be true without auxiliaries"),
        (
            {"information": {"estimator": EnsembleInformationGain}},
            "world_model.ensemble_size must be at least 2 for EnsembleInformationGain, got 1",
        ),
        ({"policy": GRUPolicy}, "policy must be feed-forward for AMAL"),
    ],
)
def test_parts_that_make_no_sense_together_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        small(**options)
    assert words in str(error.value)
