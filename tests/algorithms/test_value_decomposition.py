"""VDN and QMIX: their loss against a plain one, what must not reach it, and their schedules."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from torch import Tensor

from amal.algorithms.value_decomposition import QMIX, VDN, ValueDecomposition
from amal.battle.scenario import load_scenario
from amal.networks.policies import GRUPolicy, MLPPolicy
from amal.replay import ReplayedEpisodes
from amal.rollout.collector import record_battle
from amal.rollout.load_policy import load_player
from amal.types import EpisodeBatch
from amal.viewer.action_recorder import ActionRecorder
from tests.algorithms.episodes import (
    N_ACTIONS,
    N_AGENTS,
    SIZES,
    assert_identical,
    matching_game,
    parameters,
    random_batch,
    train,
)
from tests.runs import Cli, assert_equal_parameters, assert_equal_tables, assert_learned

MLP, GRU = partial(MLPPolicy, hidden_sizes=(16, 16)), partial(GRUPolicy, hidden_size=8)
KINDS = [(VDN, MLP), (VDN, GRU), (QMIX, MLP), (QMIX, GRU)]
IDS = ["vdn", "recurrent vdn", "qmix", "recurrent qmix"]


def built(algorithm: type[ValueDecomposition] = QMIX, **options: Any) -> ValueDecomposition:
    """With other target networks than the ones that learn, and values that are not all alike."""
    seed_everything(0, verbose=False)
    module = algorithm(**{**SIZES, "policy": MLP, "batch_size": 5, "replay_episodes": 20, **options})
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return module


@pytest.mark.parametrize("algorithm", [VDN, QMIX])
def test_each_agent_finds_its_part(algorithm: type[ValueDecomposition]) -> None:
    """A random team scores 0.25, the best 1; nobody explores in the end."""
    seed_everything(0, verbose=False)
    module = algorithm(**SIZES, policy=MLP, batch_size=32, lr=0.02, episodes_per_step=8, epsilon_end=0.0)
    scores: list[float] = []
    generator = torch.Generator().manual_seed(0)
    n_updates = 30
    train(module, lambda i: matching_game(module, generator, n_updates, scores, i), n_updates)
    assert scores[0] < 0.4
    assert sum(scores[-5:]) / 5 > 0.9


def episodes_of(batch: EpisodeBatch) -> ReplayedEpisodes:
    names = ("obs", "state", "available_actions", "actions", "rewards", "terminated", "lengths")
    return ReplayedEpisodes(**{name: getattr(batch, name) for name in names})


def plain_loss(module: ValueDecomposition, batch: EpisodeBatch) -> Tensor:
    """One number after the other, as the papers say it."""
    errors = []
    for b, length in enumerate(batch.lengths.tolist()):

        def q(team: Any, b: int = b, length: int = length) -> Tensor:
            obs = batch.obs[b : b + 1, : length + 1]
            values: Tensor = team.policy(obs, team.policy.initial_hidden(1))[0][0]
            return values

        values, target_values = q(module.team), q(module.target)

        def total(team: Any, t: int, of_agents: list[Tensor], b: int = b) -> Tensor:
            mixed: Tensor = team.mixer(torch.stack(of_agents), batch.state[b, t])
            return mixed

        best, chosen = [], []
        for t in range(length + 1):
            judged, taken = [], []
            for i in range(N_AGENTS):
                available = [a for a in range(N_ACTIONS) if batch.available_actions[b, t, i, a]]
                if available == [0]:  # dead
                    judged.append(torch.zeros(()))
                    taken.append(torch.zeros(()))
                    continue
                judged.append(target_values[t, i, max(available, key=lambda a: float(values[t, i, a].detach()))])  # noqa: B023
                taken.append(values[t, i, batch.actions[b, t, i]] if t < length else torch.zeros(()))
            best.append(total(module.target, t, judged).detach())
            chosen.append(total(module.team, t, taken))
        following = best[length]
        target = following
        for t in reversed(range(length)):
            mixture = (1 - module.td_lambda) * best[t + 1] + module.td_lambda * target
            target = batch.rewards[b, t] + module.gamma * (0 if batch.terminated[b, t] else 1) * mixture
            errors.append(0.5 * (chosen[t] - target) ** 2)
    return torch.stack(errors).mean()


@pytest.mark.parametrize(("algorithm", "policy"), KINDS, ids=IDS)
@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_the_loss_is_the_plain_one(algorithm: type[ValueDecomposition], policy: Any, td_lambda: float) -> None:
    module, batch = built(algorithm, policy=policy, td_lambda=td_lambda), random_batch(3)
    loss, _ = module.value_loss(episodes_of(batch))
    torch.testing.assert_close(loss, plain_loss(module, batch), rtol=1e-4, atol=1e-6)
    names = [name for name, _ in module.team.named_parameters()]
    ours, plain = (
        torch.autograd.grad(one, list(module.team.parameters()), allow_unused=True)
        for one in (loss, plain_loss(module, batch))
    )
    for name, mine, theirs in zip(names, ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("algorithm", "policy"), KINDS, ids=IDS)
def test_what_is_in_the_padding_does_not_count(algorithm: type[ValueDecomposition], policy: Any) -> None:
    module, batch = built(algorithm, policy=policy), random_batch(3)
    expected, _ = module.value_loss(episodes_of(batch))
    after = torch.arange(batch.obs.shape[1]) > batch.lengths.unsqueeze(-1)
    for name, rubbish in (("obs", 1e3), ("state", -1e3), ("rewards", 1e3), ("terminated", True), ("actions", 4)):
        getattr(batch, name)[after[:, : getattr(batch, name).shape[1]]] = rubbish
    batch.rewards[~batch.mask] = 1e3
    batch.available_actions[after] = True
    found, _ = module.value_loss(episodes_of(batch))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("algorithm", "policy"), KINDS, ids=IDS)
def test_the_dead_are_worth_nothing(algorithm: type[ValueDecomposition], policy: Any) -> None:
    """Whatever a back end shows them."""
    module, batch = built(algorithm, policy=policy), random_batch(3)
    expected, _ = module.value_loss(episodes_of(batch))
    batch.obs[batch.available_actions[..., 0]] = 7.0
    found, _ = module.value_loss(episodes_of(batch))
    assert torch.equal(found, expected)


def one_step(terminated: bool) -> ReplayedEpisodes:
    batch = random_batch(0, (1, 1, 1, 1, 1))
    ends = torch.full_like(batch.terminated, terminated)
    return episodes_of(replace(batch, terminated=ends, truncated=~ends))


def test_what_follows_counts_after_truncation_and_not_after_termination() -> None:
    """Values of 5 for everything, in the target network alone."""
    module = built(VDN, gamma=0.5)
    for network in (module.team, module.target):
        for parameter in network.parameters():
            parameter.data.zero_()
    module.target.policy.layers.last.bias.data.fill_(5.0)  # type: ignore[union-attr, operator]
    episodes = one_step(terminated=False)
    alive = torch.ones(5, 2, N_AGENTS, dtype=torch.bool)
    values = torch.zeros(5 * 2 * N_AGENTS, N_ACTIONS)
    bootstrapped = module.targets(episodes, alive, values)
    torch.testing.assert_close(bootstrapped, episodes.rewards + 0.5 * N_AGENTS * 5.0)
    torch.testing.assert_close(module.targets(one_step(terminated=True), alive, values), episodes.rewards)


def test_the_target_network_is_renewed_after_so_many_episodes() -> None:
    module = built(target_update_episodes=10, lr=1e-2)
    before = [p.clone() for p in module.target.parameters()]
    train(module, random_batch, n_batches=1)  # of 5 episodes each
    assert all(torch.equal(old, new) for old, new in zip(before, module.target.parameters(), strict=True))
    train(module, random_batch, n_batches=1)
    pairs = zip(module.team.parameters(), module.target.parameters(), strict=True)
    assert all(torch.equal(fast, slow) for fast, slow in pairs)


def test_the_target_network_can_follow_slowly_instead() -> None:
    module = built(target_tau=0.25, target_update_episodes=1, episodes_per_step=5)
    before = [p.clone() for p in module.target.parameters()]
    train(module, random_batch, n_batches=1)  # one step
    for old, slow, fast in zip(before, module.target.parameters(), module.team.parameters(), strict=True):
        torch.testing.assert_close(slow, old + 0.25 * (fast - old))


@pytest.mark.parametrize(("per_step", "steps"), [(1, [0, 10, 5]), (2, [0, 5, 2]), (4, [0, 2, 1]), (11, [0, 0, 1])])
def test_optimizer_steps_are_made_per_fresh_episode_once_there_are_enough(per_step: int, steps: list[int]) -> None:
    """The episodes that had to be waited for are made up for."""
    module = built(episodes_per_step=per_step, batch_size=10)
    counts = []
    for i in range(3):
        metrics = train(module, lambda _, i=i: random_batch(i), n_batches=1).callback_metrics
        counts.append(int(metrics["train/policy_steps"]))
    assert counts == steps
    assert metrics["train/replay_episodes"] == 15


def test_exploration_falls_with_progress_and_greedy_play_has_none() -> None:
    module, batch = built(epsilon_start=1.0, epsilon_end=0.0, epsilon_share=0.5), random_batch(0)
    obs, available = batch.obs[:, 0], batch.available_actions[:, 0]
    hidden = module.initial_hidden(5)
    greedy, log_probs, _ = module.act(obs, available, hidden, None, 0.0)
    assert log_probs is None and available.gather(-1, greedy.unsqueeze(-1)).all()
    late, *_ = module.act(obs, available, hidden, torch.Generator().manual_seed(0), 0.5)
    assert torch.equal(late, greedy)
    early = [module.act(obs, available, hidden, torch.Generator().manual_seed(i), 0.0)[0] for i in range(20)]
    assert any(not torch.equal(actions, greedy) for actions in early)
    assert all(available.gather(-1, actions.unsqueeze(-1)).all() for actions in early)
    scores = module.action_scores(obs, available, hidden)
    assert scores.kind == "value" and torch.equal(scores.scores.argmax(dim=-1), greedy)
    assert scores.scores[available].isfinite().all() and (scores.scores[~available] == -torch.inf).all()


def test_the_memory_of_acting_is_that_of_learning() -> None:
    """The values of a recurrent team, step by step and of whole episodes."""
    module, batch = built(policy=GRU), random_batch(3)
    hidden, acted = module.initial_hidden(5), []
    for t in range(batch.obs.shape[1]):
        values, hidden = module.team.policy(batch.obs[:, t : t + 1], hidden)
        acted.append(values.squeeze(1))
    episodes = episodes_of(batch)
    alive = episodes.seen.unsqueeze(-1) & ~episodes.available_actions[..., 0]
    torch.testing.assert_close(module.team.of_actions(episodes, alive), torch.stack(acted, dim=1)[alive])


OPTIONS: dict[str, tuple[Any, Any]] = {  # what it is here, and another value
    "lr": (1e-2, 2e-2),
    "gamma": (0.8, 0.9),
    "td_lambda": (0.6, 0.2),
    "replay_episodes": (20, 5),
    "batch_size": (5, 4),
    "episodes_per_step": (2, 1),
    "target_update_episodes": (5, 200),
    "target_tau": (None, 0.5),
    "max_grad_norm": (0.05, 0.1),
}


def after_two(**options: Any) -> dict[str, Tensor]:
    module = built(**{name: value for name, (value, _) in OPTIONS.items()} | options)
    train(module, random_batch, n_batches=2)
    return {name: tensor for name, tensor in parameters(module).items() if name.startswith("team.")}


@pytest.fixture(scope="module")
def learned() -> dict[str, Tensor]:
    return after_two()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_learning_has_an_effect(learned: dict[str, Tensor], name: str) -> None:
    other = after_two(**{name: OPTIONS[name][1]})
    assert any(not torch.equal(learned[key], other[key]) for key in learned)


def test_learning_goes_on_where_it_was_saved() -> None:
    first, second = built(), built()
    train(first, random_batch, n_batches=2)
    second.load_state_dict(first.state_dict())
    second.load_learning_state(first.learning_state())
    for module in (first, second):
        module.configure_optimizers = lambda module=module: torch.optim.SGD(module.team.parameters(), lr=0.01)  # type: ignore[method-assign]
        train(module, lambda i: random_batch(i + 2), n_batches=2)  # type: ignore[arg-type]
    assert_identical(parameters(first), parameters(second))
    assert first.target_age == second.target_age == 20


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("lr", 0.0, "greater than 0"),
        ("gamma", 1.5, "in [0, 1]"),
        ("td_lambda", -0.1, "in [0, 1]"),
        ("epsilon_start", 1.1, "in [0, 1]"),
        ("epsilon_end", -0.1, "in [0, 1]"),
        ("epsilon_share", 2.0, "in [0, 1]"),
        ("replay_episodes", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", 21, "at most replay_episodes (20)"),
        ("episodes_per_step", 0, "at least 1"),
        ("target_update_episodes", 0, "at least 1"),
        ("target_tau", 0.0, "in (0, 1]"),
        ("max_grad_norm", 0.0, "greater than 0"),
    ],
)
@pytest.mark.parametrize("algorithm", [VDN, QMIX])
def test_arguments_are_checked(algorithm: Callable[..., Any], argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError) as error:
        built(algorithm, **{argument: value})  # type: ignore[arg-type]
    assert str(error.value) == f"{argument} must be {allowed}, got {value}"


TINY = ("--data.scenario", "3m", "--data.episodes", "24", "--model.batch_size", "8")
RARELY = ("--evaluation.every_n_episodes", "16", "--checkpoint.every_n_episodes", "16")
GRU_PATH = ("--model.policy", "amal.networks.GRUPolicy")


@pytest.mark.parametrize("options", [("vdn",), ("qmix",), ("qmix", *GRU_PATH)], ids=["vdn", "qmix", "recurrent qmix"])
def test_a_run_is_resumed_exactly_and_its_best_checkpoint_plays(
    cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Replay, counters and random streams are in last.ckpt, and only there; a film shows the values."""
    name, *network = options
    whole, part = tmp_path / "whole", tmp_path / "part"
    cli("fit", "--config", f"configs/{name}.yaml", *network, *TINY, *RARELY, "--out", whole)
    half = whole / "checkpoints" / "episode_16.ckpt"
    cli("fit", "--config", whole / "config.yaml", "--ckpt_path", half, "--out", part)
    assert_equal_parameters(whole, part)
    assert_equal_tables(whole, part)
    assert_learned(whole)
    best, last = (torch.load(whole / "checkpoints" / f"{kind}.ckpt", weights_only=True) for kind in ("best", "last"))
    again = torch.load(part / "checkpoints" / "last.ckpt", weights_only=True)
    assert "learning_state" not in best
    (ours,), (theirs,) = last["learning_state"], again["learning_state"]
    assert len(ours["replay"]["rows"]) == 24 and torch.equal(ours["replay"]["table"], theirs["replay"]["table"])
    assert ours["replay"]["stream"] == theirs["replay"]["stream"]
    assert json.loads((whole / "run.json").read_text())["algorithm"] == name.upper()
    recorder = ActionRecorder(load_player(whole / "checkpoints" / "best.ckpt")[0])
    record_battle(recorder, load_scenario("3m"), seed=0)
    chosen = recorder.chosen()
    assert chosen.kind == "value" and chosen.scores is not None
    assert (chosen.scores.argmax(axis=-1) == chosen.actions).all()


def test_vdn_has_no_other_mixer(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", "configs/vdn.yaml", *TINY, "--model.mixer", "amal.networks.QMIXMixer")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "mixer" in said
