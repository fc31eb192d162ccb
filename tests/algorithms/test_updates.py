"""Whole updates against plain ones, and every option's effect on them."""

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from lightning import seed_everything

from amal.algorithms.amal import AMAL, Auxiliaries, InformationBonus, OffPolicyReplay, WorldModelLearning
from amal.algorithms.mappo import MAPPO
from amal.networks.critics import IPPOCritic
from amal.networks.world_models import WorldModel
from amal.types import EpisodeBatch
from callbacks import Evolution
from tests.algorithms.episodes import SIZES, SMALL_CRITIC, SMALL_MLP, parameters, random_batch, train
from tests.algorithms.plain import PlainAMAL, PlainMAPPO, defaults
from tests.algorithms.test_mappo import JOINT_CRITIC, SMALL_GRU

LENGTHS = (6, 1, 4, 3, 6, 2, 5, 6, 4)

# option: what it is here, and another value
MAPPO_OPTIONS: dict[str, tuple[Any, Any]] = {
    "lr": (1e-2, 2e-2),
    "gamma": (0.8, 0.9),
    "gae_lambda": (0.6, 0.7),
    "n_step_returns": (None, 2),
    "target_critic_tau": (0.3, 0.6),
    "standardise_rewards": (True, False),
    "clip_param": (0.1, 0.3),
    "value_clip": (0.05, 0.2),
    "value_loss": ("huber", "mse"),
    "huber_delta": (0.3, 0.6),
    "entropy_coef": (0.2, 0.1),
    "entropy_floor": (1.5, 3.0),
    "max_grad_norm": (0.05, 0.1),
    "n_epochs": (2, 3),
    "n_minibatch": (3, 2),
}
AMAL_OPTIONS: dict[str, tuple[Any, Any]] = {"lr": (1e-2, 2e-2)}
PARTS: dict[str, type] = {
    "world_model": WorldModelLearning,
    "information": InformationBonus,
    "auxiliaries": Auxiliaries,
    "replay": OffPolicyReplay,
}
PART_OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "world_model": {
        "ensemble_size": (2, 1),
        "learning_rate": (3e-3, 1e-3),
        "anneal": (True, False),
        "muon": (False, True),
        "steps": (3, 2),
        "batch_size": (12, 8),
        "averaging": (0.6, 0.0),
        "isolation": (True, False),
        "buffer_size": (50, 40),
    },
    "information": {
        "lambda_info": (0.8, 0.4),
        "form": ("shaped", "raw"),
        "decay": (0.9, 0.6),
        "std_floor": (1e-5, 0.1),
        "cap": (0.5, 0.25),
    },
    "auxiliaries": {
        "num_auxiliary_agents": (3, 2),
        "evolution_frequency": (1, 2),
        "auxiliary_buffer_size": (8, 5),
        "imagination_starts": (4, 3),
        "imagination_horizon": (3, 2),
        "cem_population_size": (8, 9),
        "cem_elite_fraction": (0.5, 0.75),
        "cem_initial_std": (0.3, 0.2),
        "cem_min_std": (0.05, 0.2),
        "distance_weight": (2.0, 0.0),
        "distance_band": ((0.2, 0.3), (0.0, 9.0)),
    },
    "replay": {
        "coef": (0.7, 0.3),
        "batch_size": (10, 7),
        "aux_ratio": (0.4, 0.2),
        "importance_cap": (0.9, 0.7),
    },
}
NETWORKS: dict[str, Any] = {"policy": SMALL_MLP, "critic": SMALL_CRITIC}
CLASSES: dict[str, dict[str, Any]] = {"world_model": {"model": partial(WorldModel, hidden_dims=(16, 16))}}


def used(options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: value for name, (value, _) in options.items()}


def parts(**changes: dict[str, Any]) -> dict[str, Any]:
    """AMAL's, with other values of some of their options."""
    return {
        name: part(**{**CLASSES.get(name, {}), **used(PART_OPTIONS[name]), **changes.get(name, {})})
        for name, part in PARTS.items()
    }


def built(algorithm: type[MAPPO], **options: Any) -> MAPPO:
    seed_everything(0, verbose=False)
    return algorithm(**{**SIZES, **NETWORKS, **options})


def batch_of(i: int) -> EpisodeBatch:
    batch = random_batch(i, LENGTHS)
    return EpisodeBatch(**{**vars(batch), "rewards": 3 * batch.rewards, "progress": 0.1 + 0.2 * i})


def after_two(module: MAPPO) -> dict[str, float]:
    """The second update's metrics; two are enough for all running statistics and momenta."""
    callbacks = {"callbacks": [Evolution()]}
    metrics = train(module, batch_of, n_batches=2, trainer=callbacks).callback_metrics
    return {name.removeprefix("train/"): float(value) for name, value in metrics.items()}


def assert_equal_to_plain(module: MAPPO, plain: PlainMAPPO) -> None:
    told = after_two(module)
    expected = [plain.update(batch_of(i)) for i in range(2)][-1]
    assert {name: told[name] for name in expected} == pytest.approx(expected, rel=2e-4, abs=2e-6)
    for name in ("policy", "critic", "world_model"):
        for ours, theirs in zip(
            *(getattr(x, name, torch.nn.Module()).parameters() for x in (module, plain)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"critic": JOINT_CRITIC},
        {"critic": partial(IPPOCritic, hidden_sizes=(16, 16)), "n_step_returns": 2, "value_loss": "mse"},
        {"policy": SMALL_GRU, "target_critic_tau": None, "standardise_rewards": False, "gae_lambda": 0.9},
        {"share_parameters": False, "max_grad_norm": 10.0},
    ],
    ids=["mappo", "ippo with n-step returns", "recurrent", "independent policies"],
)
def test_two_updates_of_mappo_are_the_plain_ones(options: dict[str, Any]) -> None:
    options = {**used(MAPPO_OPTIONS), **options}
    module = built(MAPPO, **options)
    assert_equal_to_plain(module, PlainMAPPO(module, **options))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        (
            {"standardise_rewards": False, "target_critic_tau": None},
            {"information": {"form": "raw"}, "world_model": {"isolation": False}},
        ),
    ],
    ids=["shaped, isolated", "raw, open gate"],
)
def test_two_updates_of_amal_are_the_plain_ones(options: dict[str, Any], changes: dict[str, Any]) -> None:
    options = {**used(MAPPO_OPTIONS), **used(AMAL_OPTIONS), **options, **parts(**changes)}
    module = built(AMAL, **options)
    assert_equal_to_plain(module, PlainAMAL(module, **options))


@pytest.fixture(scope="module")
def learned() -> dict[type[MAPPO], dict[str, torch.Tensor]]:
    """What the algorithms know after two updates with the options above."""
    modules = [built(MAPPO, **used(MAPPO_OPTIONS)), built(AMAL, **used(AMAL_OPTIONS), **parts())]
    return {type(module): known(module) for module in modules}


def known(module: MAPPO) -> dict[str, torch.Tensor]:
    after_two(module)
    networks = ("policy.", "critic.", "world_model.")
    return {name: tensor for name, tensor in parameters(module).items() if name.startswith(networks)}


def assert_another(ours: dict[str, torch.Tensor], module: MAPPO) -> None:
    """So that the plain updates above, which have that of their definition, tell any other."""
    other = known(module)
    assert any(not torch.equal(ours[name], other[name]) for name in ours.keys() & other.keys())


@pytest.mark.parametrize("name", MAPPO_OPTIONS)
def test_every_option_of_mappo_has_an_effect(learned: dict[type[MAPPO], dict[str, torch.Tensor]], name: str) -> None:
    assert_another(learned[MAPPO], built(MAPPO, **used(MAPPO_OPTIONS) | {name: MAPPO_OPTIONS[name][1]}))


@pytest.mark.parametrize(
    ("part", "name"), [("", "lr"), *((part, name) for part, options in PART_OPTIONS.items() for name in options)]
)
def test_every_option_of_amal_has_an_effect(
    learned: dict[type[MAPPO], dict[str, torch.Tensor]], part: str, name: str
) -> None:
    other = {name: (PART_OPTIONS[part] if part else AMAL_OPTIONS)[name][1]}
    options = used(AMAL_OPTIONS) | ({} if part else other)
    assert_another(learned[AMAL], built(AMAL, **options, **parts(**({part: other} if part else {}))))


def test_no_option_is_left_out() -> None:
    assert set(MAPPO_OPTIONS) == set(defaults(MAPPO)) - {"policy", "critic", "share_parameters", "layout"}
    # of imagination, see tests/algorithms/amal/test_imagination.py
    assert set(AMAL_OPTIONS) == set(defaults(AMAL)) - set(PARTS) - {"scenario", "imagination"}
    classes = {"model", "estimator", "buffer_folder"}
    for name, part in PARTS.items():
        assert set(PART_OPTIONS[name]) == {field.name for field in fields(part)} - classes
