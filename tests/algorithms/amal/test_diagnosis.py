"""The diagnosis: its gradients, and that nobody notices that it was made."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from amal.algorithms.amal.diagnosis import (
    REPLAYED,
    gradient_alignment,
    playing_as,
    policy_gradient,
    surprise_correlation,
    undisturbed,
)
from amal.algorithms.minibatches import Transitions
from amal.ops.populations import flat_parameters
from tests.algorithms.amal.test_algorithm import SMALL, evolving, small
from tests.algorithms.episodes import N_ACTIONS, N_AGENTS, OBS_DIM, STATE_DIM, random_batch, train
from tests.runs import assert_equal_parameters, fit


def test_the_gradient_of_the_last_bias_is_the_advantage_times_what_was_done_less_what_was_expected() -> None:
    """One step of one living agent: ∂/∂b Â log softmax(z + b)_a = Â (1_a − π); the dead agents' do not count."""
    module = small()
    ones, available = torch.ones(1, N_AGENTS), torch.ones(1, N_AGENTS, N_ACTIONS, dtype=torch.bool)
    step = Transitions(
        obs=torch.randn(1, N_AGENTS, OBS_DIM),
        state=torch.randn(1, STATE_DIM),
        available_actions=available,
        actions=torch.tensor([[2, 1, 1]]),
        log_probs=ones,
        alive=torch.tensor([[True, False, False]]),
        advantages=torch.tensor([[3.0, 100.0, float("nan")]]),
        values=ones,
        targets=ones,
    )
    logits, _ = module.policy(step.obs.unsqueeze(1), module.policy.initial_hidden(1))
    expected = 3.0 * (torch.eye(N_ACTIONS)[2] - logits[0, 0, 0].softmax(dim=-1))
    gradient = policy_gradient(module, step)
    torch.testing.assert_close(gradient[-N_ACTIONS:], expected.detach())


def test_lived_steps_have_the_advantages_that_the_policy_would_learn_from() -> None:
    module, batch = small(), random_batch(0)
    seen, _ = module.estimate_advantages(batch, is_real=False)
    expected, _ = module.estimate_advantages(batch)
    torch.testing.assert_close(seen.advantages[expected.alive], expected.advantages[expected.alive])


def test_equal_episodes_have_equal_gradients_and_the_update_is_the_sum_of_its_parts() -> None:
    module = small()
    train(module, random_batch, n_batches=4, trainer=evolving())
    episodes = random_batch(9)
    with undisturbed(module):
        cosines = gradient_alignment(module, episodes, episodes)
    assert cosines["gradient_fresh"] == pytest.approx(1.0)

    fresh = policy_gradient(module, module.estimate_advantages(episodes, is_real=False)[0])
    replay = module.replay
    assert replay is not None
    module.replay_buffer.sample_mixed(REPLAYED, replay.aux_ratio)  # what the single kinds are judged by
    mixed, _ = replay.draw(module, module.replay_buffer, n_minibatch=REPLAYED // replay.batch_size)
    update = fresh + replay.coef * policy_gradient(module, mixed)
    assert cosines["gradient_update"] == pytest.approx(torch.cosine_similarity(update, fresh, dim=0).item())
    alone = gradient_alignment(small(auxiliaries=None, replay=None), episodes, episodes)
    assert pd.isna(alone["gradient_update"]) and alone["gradient_fresh"] == pytest.approx(1.0)


def test_information_that_is_surprise_correlates_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module, episodes = small(), random_batch(3)

    def surprise(world_model: object, policy: object, lived: object) -> torch.Tensor:
        """Of an untrained model, which expects no change: how much changes."""
        change = (lived.next_obs - lived.obs).square().sum(dim=-1)  # type: ignore[attr-defined]
        alive = lived.alive  # type: ignore[attr-defined]
        return torch.where(alive, change, 0.0).sum(dim=-1) / alive.sum(dim=-1).clamp_min(1)

    monkeypatch.setattr(module.estimator, "per_transition", surprise)
    assert surprise_correlation(module, episodes) > 0.9
    assert pd.isna(surprise_correlation(small(information=None), episodes))


def test_the_policy_and_the_streams_come_back() -> None:
    module = small()
    train(module, random_batch, n_batches=2, trainer=evolving())
    before = flat_parameters(module.policy)
    with playing_as(module.policy, module.population[0]):
        assert torch.equal(flat_parameters(module.policy), module.population[0])
    assert torch.equal(flat_parameters(module.policy), before)

    def draws() -> list[torch.Tensor]:
        return [module.replay_buffer.sample_mixed(8).obs, torch.rand(3, generator=module.generator)]

    with undisturbed(module):
        inside = draws()
    assert all(torch.equal(a, b) for a, b in zip(inside, draws(), strict=True))


def test_training_is_the_same_with_and_without(cli: Callable[..., None], tmp_path: Path) -> None:
    config = yaml.safe_load(Path("configs/diagnosis.yaml").read_text())
    config["trainer"]["callbacks+"][0]["init_args"] = {"every_n_updates": 2, "reference_episodes": 4}
    often = tmp_path / "often.yaml"
    often.write_text(yaml.safe_dump(config))
    tiny = ("--data.env_steps", "400", "--data.episodes_per_update", "4", "--data.num_envs", "4")
    diagnosed = fit(cli, tmp_path / "a", "--config", str(often), *tiny, config="configs/amal_paper.yaml")
    plain = fit(cli, tmp_path / "b", *tiny, config="configs/amal_paper.yaml")
    assert_equal_parameters(diagnosed, plain)
    rows = pd.read_csv(diagnosed / "diagnosis.csv")
    assert len(rows) >= 2 and rows["env_steps"].is_monotonic_increasing
    assert rows.notna().all(axis=None)


@pytest.mark.parametrize(
    ("config", "args", "who"),
    [
        ("configs/mappo.yaml", (), "MAPPO"),
        ("configs/amal_paper.yaml", [f"--model.{part}=null" for part in SMALL], "AMAL without a flat world model"),
        ("configs/amal.yaml", (), "AMAL without a flat world model"),
    ],
)
def test_without_a_flat_world_model_there_is_nothing_to_diagnose(
    cli: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture, config: str, args: Sequence[str], who: str
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        fit(cli, tmp_path / "run", "--trainer.callbacks+=callbacks.Diagnosis", *args, config=config)
    assert exit_code.value.code == 2
    assert f"is for AMAL's first design (amal_paper); {who} has nothing that it measures" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
