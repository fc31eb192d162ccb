"""The isolation theorem: whatever the auxiliary agents' data are, the world model is the one learned from D_P alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amal.algorithms.amal.world_model_learning import IsolationAudit, WorldModelLearning, through_open_gate
from amal.battle import VectorBattle
from amal.networks.entity_model import EntityWorldModel
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.networks.world_models import WorldModel
from amal.ops.populations import flat_parameters
from amal.replay import AsymmetricReplayBuffer, Experience, ProvenanceError, RealExperience
from tests.algorithms.amal.test_algorithm import evolving, small
from tests.algorithms.episodes import N_ACTIONS, N_AGENTS, OBS_DIM, STATE_DIM, parameters, random_batch, train
from tests.conftest import ROOT
from tests.networks.test_entity_model import SIZES as SIZE_NAMES
from tests.networks.test_entity_model import played, remembered

N_UPDATES, BATCH_SIZE, N_AUXILIARY = 200, 8, 3
LEARNING = WorldModelLearning(partial(WorldModel, hidden_dims=(8, 8)), steps=1, batch_size=BATCH_SIZE)
MAX_GRAD_NORM = 10.0


def imagined(n: int, seed: int, fill: float | None) -> Experience:
    """n transitions of random auxiliary agents, random or of one value."""
    real = RealExperience.of_episodes(random_batch(seed, lengths=(n,)))
    g = torch.Generator().manual_seed(seed)
    agents = torch.randint(N_AUXILIARY, (n,), generator=g)
    made_up = Experience(**{**vars(real), "provenance": agents})
    if fill is None:
        return made_up
    names = ("obs", "state", "log_probs", "rewards", "next_obs", "next_state")
    return replace(made_up, **{name: torch.full_like(getattr(real, name), fill) for name in names})


def trajectory(contents: list[tuple[int, int, float | None]], draws: list[int], isolation: bool) -> list[torch.Tensor]:
    """All world-model parameters θ_t after each of 200 updates on a fixed stream of real episodes.

    Args:
        contents: what the auxiliary agents imagine: (when, how much, of what value).
        draws: before which updates the policy draws a mixed batch.
        isolation: False opens the gate.
    """
    torch.manual_seed(0)
    model = LEARNING.build(N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    replay = AsymmetricReplayBuffer(300, N_AGENTS, OBS_DIM, STATE_DIM, N_ACTIONS, N_AUXILIARY, auxiliary_capacity=50)

    draw = replay.sample_sequences if isolation else partial(through_open_gate, replay, 0.3)
    thetas = []
    for t in range(N_UPDATES):
        if t % 20 == 0:
            replay.add_primary_episodes(random_batch(t))
        for when, amount, fill in contents:
            if when == t:
                replay.add_auxiliary_batch(imagined(amount, t, fill))
        if t in draws:
            replay.sample_mixed(16)
        LEARNING.fit(model, [optimizer], draw, LEARNING.steps, MAX_GRAD_NORM)
        thetas.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())
    return thetas


@pytest.fixture(scope="module")
def alone() -> list[torch.Tensor]:
    """θ_t without any auxiliary agent."""
    return trajectory([], [], isolation=True)


CONTENTS = st.lists(
    st.tuples(st.integers(0, N_UPDATES - 1), st.integers(1, 80), st.sampled_from([None, 0.0, 1e30, float("nan")])),
    max_size=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contents=CONTENTS, draws=st.lists(st.integers(0, N_UPDATES - 1), max_size=20))
def test_auxiliary_data_of_any_kind_leave_every_theta_as_it_is(
    alone: list[torch.Tensor], contents: list[tuple[int, int, float | None]], draws: list[int]
) -> None:
    thetas = trajectory(contents, draws, isolation=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(thetas, alone, strict=True))


@pytest.mark.parametrize("fill", [None, 0.0, float("nan")], ids=["random", "zero", "nan"])
def test_with_an_open_gate_the_same_property_fails(alone: list[torch.Tensor], fill: float | None) -> None:
    thetas = trajectory([(50, 80, fill)], [], isolation=False)
    same = [torch.equal(ours, theirs) for ours, theirs in zip(thetas, alone, strict=True)]
    assert all(same[:50]) and not any(same[51:]), "from the first imagined transition on, and not before"


@pytest.mark.parametrize("n_auxiliary", [0, 2])
def test_in_a_whole_run_the_number_of_auxiliary_agents_does_not_reach_the_world_model(n_auxiliary: int) -> None:
    """With the stream of real episodes held fixed; the policy, which does learn from them, differs."""
    runs = []
    for number in (4, n_auxiliary):
        module = small(auxiliaries={"num_auxiliary_agents": number} if number else None)
        train(module, random_batch, n_batches=5, trainer=evolving())
        runs.append(parameters(module))
    ours, theirs = runs
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("world_model"))
    assert not torch.equal(ours["policy.layers.last.weight"], theirs["policy.layers.last.weight"])


@pytest.mark.parametrize("isolation", [True, False])
def test_the_audit_measures_whether_the_gate_is_closed(isolation: bool) -> None:
    module = small(world_model={"isolation": isolation}, auxiliaries={"evolution_frequency": 1})
    kl = []
    for _ in range(2):  # the first update has nothing imagined yet
        train(module, random_batch, n_batches=1, trainer=evolving())
        kl.append(module.trainer.callback_metrics["train/isolation_kl"].item())
    assert kl[0] == 0
    assert kl[1] == 0 if isolation else kl[1] > 1e-6


def test_auxiliary_data_leave_all_of_an_entity_wise_model_as_it_is() -> None:
    """Its weights, and what it learns without gradients: rewards and where units can walk."""
    batch, fought = played("3m"), VectorBattle("3m", 1).scenario
    sizes = [getattr(fought.spec(), name) for name in SIZE_NAMES]
    learning = replace(LEARNING, model=EntityWorldModel, steps=4)
    states = []
    for fill in (None, 0.0, float("nan")):
        torch.manual_seed(0)
        world_model = learning.build(*sizes, fought)
        n_agents, n_actions, obs_dim, state_dim = sizes
        buffer = AsymmetricReplayBuffer(2000, n_agents, obs_dim, state_dim, n_actions, 1, auxiliary_capacity=50)
        buffer.add_primary_episodes(batch)
        if fill is not None:
            real = buffer.sample_primary(50, np.random.default_rng(0))
            names = ("obs", "state", "rewards", "next_obs", "next_state")
            made_up = {name: torch.full_like(getattr(real, name), fill) for name in names}
            agents = {"provenance": torch.zeros_like(real.provenance)}
            buffer.add_auxiliary_batch(Experience(**{**vars(real), **made_up, **agents}))
        learning.fit(
            world_model, learning.optimizers(world_model), buffer.sample_sequences, learning.steps, MAX_GRAD_NORM
        )
        states.append(world_model.state_dict())
    for others in states[1:]:
        assert all(torch.equal(states[0][name], value) for name, value in others.items())


def test_an_audit_leaves_model_and_streams_as_they_are() -> None:
    module = small()
    train(module, random_batch, n_batches=1, trainer=evolving())
    before, stream = parameters(module), module.replay_buffer.primary_stream.bit_generator.state
    audit = IsolationAudit(LEARNING, module.world_model, module.all_optimizers()[2:], module.replay_buffer)
    assert audit.divergence(LEARNING.steps, MAX_GRAD_NORM) > 0  # it made a step, and the audited model none
    assert all(torch.equal(before[name], value) for name, value in parameters(module).items())
    assert module.replay_buffer.primary_stream.bit_generator.state == stream


def test_an_audit_of_entity_wise_models_compares_what_they_expect_of_units() -> None:
    buffer, fought = remembered(played("3m")), VectorBattle("3m", 1).scenario
    sizes = [getattr(fought.spec(), name) for name in SIZE_NAMES]
    ensemble = WorldModelEnsemble(EntityWorldModel, 2, *sizes, fought)
    for steps, is_equal in ((0, True), (1, False)):
        learning = replace(LEARNING, model=EntityWorldModel, ensemble_size=2, steps=steps)
        audit = IsolationAudit(learning, ensemble, learning.optimizers(ensemble), buffer)
        divergence = audit.divergence(steps, MAX_GRAD_NORM)
        assert divergence == 0 if is_equal else divergence > 0


def test_imagined_experience_cannot_be_taken_for_real() -> None:
    with pytest.raises(ProvenanceError, match="3 of 3 rows came from auxiliary agents"):
        RealExperience(**vars(imagined(3, 0, None)))


def test_the_type_checker_refuses_auxiliary_data(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\n"
        "from amal.algorithms.amal import WorldModelLearning\n"
        "from amal.replay import AsymmetricReplayBuffer\n"
        "from amal.networks.world_model_ensemble import WorldModelEnsemble\n"
        "def run(model: WorldModelEnsemble, replay: AsymmetricReplayBuffer, adam: torch.optim.Optimizer) -> None:\n"
        "    WorldModelLearning().fit(model, [adam], replay.sample_sequences, 1, 10.0)\n"
        "    WorldModelLearning().fit(model, [adam], replay.sample_mixed, 1, 10.0)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    errors = [line for line in result.stdout.splitlines() if "error" in line and "program.py" in line]
    assert len(errors) == 1 and "program.py:7" in errors[0]


def test_with_muon_matrices_take_its_steps_and_the_rest_those_of_adam() -> None:
    """Muon's first step is about 0.2 η · √(the larger side) long where it is longest."""
    learning = replace(LEARNING, muon=True, learning_rate=1e-2)
    model = learning.build(N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM, None)
    replay = AsymmetricReplayBuffer(300, N_AGENTS, OBS_DIM, STATE_DIM, N_ACTIONS, N_AUXILIARY)
    replay.add_primary_episodes(random_batch(0))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learning.fit(model, learning.optimizers(model), replay.sample_sequences, learning.steps, MAX_GRAD_NORM)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            turned = before[name] * (1 - 1e-2 * 0.1) - weight.detach()  # less the decay
            lengths = torch.linalg.svdvals(turned) / (0.2e-2 * max(weight.shape) ** 0.5)
            assert 0.5 < lengths[0] < 1.3, name
        else:
            assert (before[name] - weight).abs().max() <= 1.001e-2, name


def test_without_steps_it_stays_as_it_is() -> None:
    module = small(world_model={"steps": 0})
    before = parameters(module)
    metrics = train(module, random_batch, n_batches=1, trainer=evolving()).callback_metrics
    assert all(torch.equal(value, before[name]) for name, value in parameters(module).items() if "world_model" in name)
    assert "train/model_obs_error_1" in metrics and "train/model_obs_loss" not in metrics


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("ensemble_size", 0, "at least 1"),
        ("learning_rate", 0.0, "greater than 0"),
        ("steps", -1, "at least 0"),
        ("batch_size", 0, "at least 1"),
        ("buffer_size", 0, "at least 1"),
        ("averaging", 1.0, r"in \[0, 1\)"),
        ("averaging", -0.1, r"in \[0, 1\)"),
    ],
)
def test_arguments_are_checked(argument: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be {allowed}, got"):
        WorldModelLearning(**{argument: value})


def test_the_average_follows_the_weights_and_takes_over_what_is_counted() -> None:
    torch.manual_seed(0)
    learning = replace(LEARNING, averaging=0.2)
    model = learning.build(N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM, None)
    model.register_buffer("counted", torch.zeros(()))
    average = learning.average_of(model)
    assert average is not None
    replay = AsymmetricReplayBuffer(300, N_AGENTS, OBS_DIM, STATE_DIM, N_ACTIONS, N_AUXILIARY)
    replay.add_primary_episodes(random_batch(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    weights = []
    for _ in range(3):
        model.counted += 1
        learning.fit(model, [optimizer], replay.sample_sequences, learning.steps, MAX_GRAD_NORM, average)
        weights.append(flat_parameters(model))
    followed = 0.8 * weights[2] + 0.2 * (9 * weights[1] + 2 * weights[0]) / 11
    torch.testing.assert_close(flat_parameters(average.module), followed)
    assert average.module.counted == 3
