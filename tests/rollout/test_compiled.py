"""Episodes of the compiled rollout are those of the ordinary path, draw by draw."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.stepping import step_chunk
from amal.networks.policies import GRUPolicy, MLPPolicy
from amal.ops.losses import masked_log_softmax, probabilities
from amal.rollout import collector, compiled
from amal.rollout.collector import EpisodeRecorder
from amal.rollout.opponent import OpponentBattle
from amal.types import BattleSpec, EpisodeBatch


class AskedStepByStep(MAPPO):
    """Plays by the ordinary path. Where actions are drawn, it takes the numbers of the compiled rollout: for as many
    episodes as there are battles."""

    step = 0

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if generator is None:
            return super().act(obs, available_actions, hidden, generator, progress)
        if self.step == 0:
            self.seed = np.uint64(torch.randint(2**63 - 1, (), generator=generator))
        logits, hidden = self.policy(obs.unsqueeze(1), hidden)
        log_probs = masked_log_softmax(logits.squeeze(1), available_actions)
        n_battles, n_agents = obs.shape[:2]
        bits = [
            [compiled.drawn_bits(self.seed, e, self.step * n_agents + i) for i in range(n_agents)]
            for e in range(n_battles)
        ]
        u = torch.tensor((np.array(bits, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53)
        cumulative = probabilities(log_probs).double().cumsum(dim=-1)
        actions = torch.searchsorted(cumulative, u.unsqueeze(-1) * cumulative[..., -1:], right=True)
        self.step += 1
        return actions.squeeze(-1), log_probs.gather(-1, actions).squeeze(-1), hidden


def team(
    spec: BattleSpec, kind: type[MAPPO] = MAPPO, hidden_sizes: tuple[int, ...] = (32, 32), **options: Any
) -> MAPPO:
    """With a policy that is far from uniform."""
    torch.manual_seed(0)

    def policy(obs_dim: int, n_agents: int, n_actions: int) -> MLPPolicy:
        return MLPPolicy(obs_dim, n_agents, n_actions, hidden_sizes, **options)

    module = kind(spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim, policy=policy)
    for layer in (module.policy.layers.first, module.policy.layers.last):
        torch.nn.init.normal_(layer.bias)
    module.policy.layers.last.weight.data *= 100.0
    return module


def seeded(seed: int | None) -> Generator | None:
    return None if seed is None else Generator().manual_seed(seed)


def assert_equal(batch: EpisodeBatch, other: EpisodeBatch, tolerance: float = 0.0) -> None:
    for field in fields(batch):
        one, two = getattr(batch, field.name), getattr(other, field.name)
        if field.name == "log_probs":
            torch.testing.assert_close(one, two, rtol=0.0, atol=tolerance)
        elif isinstance(one, Tensor):
            assert one.dtype == two.dtype and torch.equal(one, two), field.name
        else:
            assert one == two, field.name


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize(
    ("scenario", "options", "hidden_sizes"),
    [
        ("2s3z", {}, (256, 256)),
        ("MMM", {"random_delay": True}, (20,)),
        ("protoss_5_vs_5", {}, (9, 33, 17)),
    ],
)
def test_both_paths_play_the_same_episodes(
    scenario: str, options: dict[str, Any], hidden_sizes: tuple[int, ...], seed: int | None
) -> None:
    """The same actions, for no draw lies within rounding of a boundary."""
    batches = []
    for kind in (MAPPO, AskedStepByStep):
        battle = VectorBattle(scenario, 6, seed=3, auto_reset=False, **options)
        module = team(battle.spec, kind, hidden_sizes)
        batches.append(EpisodeRecorder(battle, 6).play(module, 6, seeded(seed), progress=0.25))
    assert_equal(*batches, tolerance=1e-5)
    if seed is not None:
        assert batches[0].actions[batches[0].alive].unique().numel() > 5
        assert (batches[0].dead_allies > 0).any(), "the dead are left out, so somebody must die"


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_numbers_do_not_depend_on_the_threads(threads: None) -> None:
    batches = []
    for number in (1, 3):
        torch.set_num_threads(number)
        recorder = EpisodeRecorder(VectorBattle("2s3z", 8, seed=3, auto_reset=False), 20)
        module, generator = team(recorder.battle.spec), Generator().manual_seed(2)
        recorder.play(module, 13, generator)
        batches.append(recorder.play(module, 20, generator))
    assert_equal(*batches)


def test_an_episode_draws_its_actions_alone() -> None:
    """Whoever plays beside it, and whatever the other battles do."""
    batches = []
    for battles in (2, 5):
        battle = VectorBattle("3m", battles, seed=3, auto_reset=False)
        batches.append(EpisodeRecorder(battle, battles).play(team(battle.spec), battles, Generator().manual_seed(2)))
    few, many = batches
    for e in range(2):
        n = int(few.lengths[e])
        assert int(many.lengths[e]) == n
        assert torch.equal(few.log_probs[e, :n], many.log_probs[e, :n])
    assert not torch.equal(few.actions[0, :5], few.actions[1, :5])


def test_the_battles_go_on_where_the_last_rollout_left_them() -> None:
    """So a checkpoint, which holds the battles and the generator, goes on with the same episodes."""
    battle = VectorBattle("3m", 3, seed=3, auto_reset=False)
    recorder, module, generator = EpisodeRecorder(battle, 7), team(battle.spec), Generator().manual_seed(2)
    recorder.play(module, 7, generator)
    saved, drawn = battle.state_dict(), generator.get_state()
    expected = recorder.play(module, 5, generator)

    again = VectorBattle("3m", 3, seed=4, auto_reset=False)
    again.load_state_dict(saved)
    generator.set_state(drawn)
    assert_equal(EpisodeRecorder(again, 7).play(module, 5, generator), expected)
    assert not torch.equal(recorder.play(module, 5, generator).obs[:, :5], expected.obs[:, :5])


def test_the_first_minibatch_is_on_policy() -> None:
    battle = VectorBattle("2s3z", 8, auto_reset=False)
    module = team(battle.spec, hidden_sizes=(256, 256))
    batch = EpisodeRecorder(battle, 16).play(module, 16, Generator().manual_seed(2))
    transitions, _ = module.estimate_advantages(batch)
    minibatch = module.minibatches(batch, transitions)[0]
    lived = transitions[minibatch.steps]
    mine = lived.at_rows(minibatch.rows)
    log_probs = masked_log_softmax(module.policy.at_rows(lived.obs, minibatch.rows), mine.available_actions)
    ratio = (log_probs.gather(-1, mine.actions.unsqueeze(-1)).squeeze(-1) - mine.log_probs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.0, atol=1e-4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with an entry for each compiled rollout."""
    made: list[str] = []
    play = compiled.play_episodes

    def told(*arguments: Any) -> Any:
        made.append("compiled")
        return play(*arguments)

    monkeypatch.setattr(collector, "play_episodes", told)
    return made


def test_only_a_plain_network_that_nobody_watches_is_compiled(calls: list[str]) -> None:
    battle = VectorBattle("3m", 2, auto_reset=False)
    spec, module = battle.spec, team(battle.spec)
    EpisodeRecorder(battle, 2).play(module, 2)
    assert calls == ["compiled"]

    recurrent = MAPPO(spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim, policy=GRUPolicy)
    separate = MAPPO(spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim, share_parameters=False)
    normed = [team(spec, feature_norm=True), team(spec, layer_norm=True)]
    for other in (recurrent, separate, *normed, team(spec, AskedStepByStep)):
        EpisodeRecorder(battle, 2).play(other, 2)
    assert team(spec).double().plain_network() is None
    EpisodeRecorder(battle, 2).play(module, 2, watch=lambda _: None)
    assert EpisodeRecorder(battle, 2, snapshots=True).play(module, 2).snapshots is not None
    EpisodeRecorder(OpponentBattle(module, "3m", 2, auto_reset=False), 2).play(module, 2)
    assert calls == ["compiled"]


def test_the_kernels_do_what_they_say_without_compilation(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    torch.set_num_threads(1)  # a thread of its own would warn of what overflows as it should
    batches = []
    for is_compiled in (True, False):
        battle = VectorBattle("2m_vs_1z", 3, seed=3, auto_reset=False, episode_limit=12)
        if not is_compiled:
            for name, kernel in vars(compiled).copy().items():
                if getattr(kernel, "__module__", "") == compiled.__name__ and hasattr(kernel, "py_func"):
                    monkeypatch.setattr(compiled, name, kernel.py_func)

            def step(
                units: Any, battles: Any, scene: Any, lineup: Any, e: int, *rest: Any, battle: Any = battle
            ) -> None:
                # the simulator stays compiled, by a kernel that exists
                step_chunk(units, battles, scene, lineup, e, len(battles), *rest[:-1], battle._scratch)

            monkeypatch.setattr(compiled, "step_battle", step)
        with np.errstate(over="ignore"):
            module = team(battle.spec, hidden_sizes=(8, 5))
            batches += [EpisodeRecorder(battle, 5).play(module, 5, seeded(seed)) for seed in (4, None)]
    assert_equal(batches[0], batches[2], tolerance=1e-5)
    assert_equal(batches[1], batches[3], tolerance=1e-5)
