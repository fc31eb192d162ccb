"""Networks that see units: what must not matter to them, and what must."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import rows_of
from amal.battle import VectorBattle
from amal.battle.battlefield import MOVE_ACTIONS
from amal.battle.scenario import load_scenario
from amal.networks.entities import EntityCritic, EntityPolicy, Scorer
from amal.networks.policies import IndependentPolicies, MLPPolicy, Policy
from amal.ops.populations import flat_parameters, population_logits
from amal.types import Layout
from tests.runs import assert_learned

SCENARIOS = ["3m", "2s3z", "MMM", "2s_vs_1sc", "5m_vs_6m", "bane_vs_bane"]


def spread(network: torch.nn.Module) -> None:
    """Larger weights than at the start, and biases, so that differences show."""
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)


def policy_of(scenario: str, independent: bool = False) -> Policy:
    torch.manual_seed(0)
    spec = load_scenario(scenario).spec()
    sizes = (spec.obs_dim, spec.n_agents, spec.n_actions)
    policy = IndependentPolicies(EntityPolicy, *sizes) if independent else EntityPolicy(*sizes)
    policy.arrange(spec.layout, range(spec.n_agents))
    spread(policy)
    return policy


def critic_of(scenario: str) -> EntityCritic:
    torch.manual_seed(0)
    spec = load_scenario(scenario).spec()
    critic = EntityCritic(spec.state_dim, spec.obs_dim, spec.n_agents)
    critic.arrange(spec.layout)
    spread(critic)
    return critic


def played(scenario: str, seed: int, n_steps: int = 12) -> tuple[Tensor, Tensor]:
    """Observations [M, N, O] and states [M, S] of random battles, some steps after their beginnings."""
    battle, chance = VectorBattle(scenario, 6, seed), np.random.default_rng(seed)
    for _ in range(n_steps):
        battle.step(np.where(battle.available_actions, chance.random(battle.available_actions.shape), 0).argmax(-1))
    return torch.from_numpy(battle.obs.copy()), torch.from_numpy(battle.state.copy())


def renamed(names: list[str], enemy_of: list[int], ally_of: list[int]) -> list[int]:
    """Which column has each feature once enemy j is what enemy_of[j] was, and ally j what ally_of[j] was. What allies
    did to enemies follows."""
    where = {name: column for column, name in enumerate(names)}

    def before(name: str) -> str:
        unit, _, feature = name.partition(".")
        if unit.startswith("enemy"):
            unit = f"enemy{enemy_of[int(unit[5:])]}"
        elif unit.startswith("ally"):
            unit = f"ally{ally_of[int(unit[4:])]}"
        if feature.startswith("last_action") and MOVE_ACTIONS <= (action := int(feature[11:])) < MOVE_ACTIONS + len(
            enemy_of
        ):
            feature = f"last_action{MOVE_ACTIONS + enemy_of[action - MOVE_ACTIONS]}"
        return f"{unit}.{feature}" if feature else unit

    return [where[before(name)] for name in names]


@pytest.mark.parametrize("scenario", ["3m", "2s3z", "2s_vs_1sc", "5m_vs_6m", "bane_vs_bane"])
@given(data=st.data(), seed=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_logits_follow_the_enemies_and_do_not_depend_on_the_order_of_allies(
    scenario: str, data: st.DataObject, seed: int
) -> None:
    battle, policy = load_scenario(scenario), policy_of(scenario)
    enemies = data.draw(st.permutations(range(battle.n_enemies)))
    allies = data.draw(st.permutations(range(battle.n_agents - 1)))
    obs, _ = played(scenario, seed)
    columns = renamed(battle.obs_features(), list(enemies), list(allies))
    hidden = policy.initial_hidden(len(obs))
    logits, permuted = (policy(x.unsqueeze(1), hidden)[0].squeeze(1) for x in (obs, obs[..., columns]))
    order = [*range(MOVE_ACTIONS), *(MOVE_ACTIONS + j for j in enemies)]
    torch.testing.assert_close(permuted, logits[..., order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", ["3m", "2s3z", "2s_vs_1sc", "5m_vs_6m", "bane_vs_bane"])
@given(data=st.data(), seed=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_values_follow_the_agents_and_do_not_depend_on_the_order_of_enemies(
    scenario: str, data: st.DataObject, seed: int
) -> None:
    battle, critic = load_scenario(scenario), critic_of(scenario)
    enemies = data.draw(st.permutations(range(battle.n_enemies)))
    allies = data.draw(st.permutations(range(battle.n_agents)))
    obs, state = played(scenario, seed)
    columns = renamed(battle.state_features(), list(enemies), list(allies))
    values, permuted = critic(state, obs), critic(state[:, columns], obs)
    torch.testing.assert_close(permuted, values[:, list(allies)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_attack_is_judged_by_its_own_enemy(scenario: str) -> None:
    """All else alike, two enemies that look alike get the same logit, and one that does not another."""
    battle, policy = load_scenario(scenario), policy_of(scenario)
    names = battle.obs_features()
    if battle.n_enemies < 2:
        return
    obs = torch.rand(1, battle.n_agents, len(names))
    obs[..., [i for i, name in enumerate(names) if name.startswith("own.is_")]] = 0.0  # nobody heals
    first, second = ([i for i, name in enumerate(names) if name.startswith(f"enemy{j}.")] for j in (0, 1))
    obs[..., second] = obs[..., first]
    logits, _ = policy(obs.unsqueeze(1), policy.initial_hidden(1))
    torch.testing.assert_close(logits[..., MOVE_ACTIONS], logits[..., MOVE_ACTIONS + 1])
    obs[..., second[-1]] += 1.0
    logits, _ = policy(obs.unsqueeze(1), policy.initial_hidden(1))
    assert not torch.isclose(logits[..., MOVE_ACTIONS], logits[..., MOVE_ACTIONS + 1]).any()


@pytest.mark.parametrize("healer", [0, 4, 9])
@pytest.mark.parametrize("independent", [False, True], ids=["shared", "independent"])
def test_a_healers_targets_are_the_allies_by_their_number_in_the_team(independent: bool, healer: int) -> None:
    """MMM, with scores that depend on their own unit alone: only that one's logit changes with its health."""
    battle, policy = load_scenario("MMM"), policy_of("MMM", independent)
    for network in policy.modules():
        if isinstance(network, Scorer):
            network.common.weight.data.zero_()
    names, allies = battle.obs_features(), battle.of_side("ally")
    marine = next(i for i, unit in enumerate(allies) if unit.name == "marine")
    obs, _ = played("MMM", 0, n_steps=2)
    obs[:, healer] = obs[:, 0]  # what the medivac sees
    obs[:, marine, names.index("own.is_medivac")] = 0.0
    hidden = policy.initial_hidden(len(obs))

    def moved(agent: int, feature: str) -> list[int]:
        """The targets whose logits change with a feature of what the agent sees."""
        other = obs.clone()
        other[:, agent, names.index(feature)] += 5.0
        before, after = (policy(x.unsqueeze(1), hidden)[0][:, 0, agent, MOVE_ACTIONS:] for x in (obs, other))
        return (before != after).any(dim=0).nonzero().flatten().tolist()

    n_targets = battle.n_actions - MOVE_ACTIONS
    for number in range(battle.n_agents):
        if number != healer:
            other = number - (number > healer)  # ally0 is the first of the others
            assert moved(healer, f"ally{other}.hp") == [number] * (number < n_targets)
            assert moved(marine, f"ally{other}.hp") == []
    for enemy in range(battle.n_enemies):
        assert moved(marine, f"enemy{enemy}.hp") == [enemy] and moved(healer, f"enemy{enemy}.hp") == []


def test_a_critic_sees_who_is_healed_and_who_is_attacked() -> None:
    battle, critic = load_scenario("MMM"), critic_of("MMM")
    names = battle.state_features()
    allies = [unit.name for unit in battle.of_side("ally")]
    healer, marine = allies.index("medivac"), allies.index("marine")
    obs, state = played("MMM", 0, n_steps=2)
    state[:, [i for i, name in enumerate(names) if ".last_action" in name]] = 0.0

    def values(agent: int, target: int) -> Tensor:
        acted = state.clone()
        acted[:, names.index(f"ally{agent}.last_action{MOVE_ACTIONS + target}")] = 1.0
        return critic(acted, obs)

    one, other = (marine, next(i for i in range(len(allies)) if i not in (marine, healer)))
    healed = values(healer, one) - values(healer, other)
    assert (healed[:, one].abs() > 1e-4).all() and (healed[:, other].abs() > 1e-4).all()
    assert (
        values(marine, 0) - values(marine, 1)
    ).abs().max() > 1e-5  # enemies 0 and 1 are of different health or place


@pytest.mark.parametrize(("scenario", "independent"), product(["3m", "MMM"], [False, True]))
def test_rows_are_what_whole_steps_are(scenario: str, independent: bool) -> None:
    policy = policy_of(scenario, independent)
    obs, _ = played(scenario, 0)
    rows = rows_of(obs.any(dim=-1) & (torch.rand(obs.shape[:2]) < 0.6))
    whole, _ = policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)))
    torch.testing.assert_close(policy.at_rows(obs, rows), whole.flatten(0, 2)[rows])


@pytest.mark.parametrize("scenario", ["3m", "2s3z", "MMM"])
def test_the_first_steps_of_adam_change_it_no_less_than_an_mlp(scenario: str) -> None:
    """Toward attacks, at equal learning rates; else it needs settings of its own to learn as quickly."""
    spec = load_scenario(scenario).spec()
    obs = torch.cat([played(scenario, 0, n_steps)[0] for n_steps in (4, 8, 12)])
    rows = rows_of(obs.any(dim=-1))

    def changed(network: type[Policy]) -> float:
        """KL divergence of the new policy from the old one."""
        torch.manual_seed(0)
        policy = network(spec.obs_dim, spec.n_agents, spec.n_actions)  # type: ignore[call-arg]
        policy.arrange(spec.layout, range(spec.n_agents))
        adam = torch.optim.Adam(policy.parameters(), 5e-4, eps=1e-5)
        before = policy.at_rows(obs, rows).log_softmax(dim=-1).detach()
        for _ in range(4):
            adam.zero_grad()
            (-policy.at_rows(obs, rows).log_softmax(dim=-1)[:, MOVE_ACTIONS:].mean()).backward()
            adam.step()
        after = policy.at_rows(obs, rows).log_softmax(dim=-1)
        return float((before.exp() * (before - after)).sum(dim=-1).mean().detach())

    assert changed(EntityPolicy) >= changed(MLPPolicy)


def test_it_can_be_a_population() -> None:
    policy = policy_of("3m")
    obs, _ = played("3m", 0)
    own = flat_parameters(policy)
    logits = population_logits(policy, torch.stack([own, 2 * own]), obs, shared=True)
    torch.testing.assert_close(logits[0], policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)))[0].squeeze(1))


def test_weights_are_of_no_number_of_units() -> None:
    for build in (policy_of, critic_of):
        three, eight = (build(name).state_dict() for name in ("3m", "8m"))  # type: ignore[operator]
        assert {name: x.shape for name, x in three.items()} == {name: x.shape for name, x in eight.items()}


@pytest.mark.parametrize("network", [{"policy": EntityPolicy}, {"critic": EntityCritic}], ids=["policy", "critic"])
def test_without_names_they_are_refused(network: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Entity\w+ needs the names of what is seen"):
        MAPPO(n_agents=3, n_actions=9, obs_dim=30, state_dim=48, **network)


def test_names_of_other_numbers_than_there_are_are_refused() -> None:
    layout = Layout(("own.hp",), ("ally0.hp",))
    with pytest.raises(ValueError, match="1 names for 30 numbers"):
        MAPPO(n_agents=3, n_actions=9, obs_dim=30, state_dim=48, policy=EntityPolicy, layout=layout)


ENTITIES = ("--model.policy", "amal.networks.EntityPolicy")
CRITIC = ("--model.critic", "amal.networks.EntityCritic")
SMALL = ("--data.episodes", "16", "--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "16")


@pytest.mark.parametrize(
    "options",
    [("mappo", *CRITIC), ("happo", *CRITIC), ("amal_paper", *CRITIC), ("vdn", "--model.batch_size", "8")],
    ids=lambda options: options[0],
)
def test_every_algorithm_takes_them_and_they_play_another_scenario(
    cli: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """Weights of 3m play 8m, but for a team without shared weights, where each agent has its own."""
    name, *others = options
    run = tmp_path / "run"
    cli("fit", "--config", f"configs/{name}.yaml", "--data.scenario", "3m", *ENTITIES, *others, *SMALL, "--out", run)
    assert_learned(run)
    checkpoint = run / "checkpoints" / "best.ckpt"
    cli("replay", "--ckpt_path", checkpoint, "--out", tmp_path / "battle.html")
    assert (tmp_path / "battle.html").exists()
    capsys.readouterr()
    play = ("validate", "--config", run / "config.yaml", "--ckpt_path", checkpoint, "--data.scenario", "8m")
    if name in ("happo", "amal_paper"):  # AMAL's world model is of 3m
        with pytest.raises(SystemExit) as stop:
            cli(*play)
        assert stop.value.code == 2 and "does not fit" in capsys.readouterr().err
    else:
        cli(*play)
        told = capsys.readouterr()
        assert "eval/win_rate" in told.out and "was trained on '3m' and plays '8m'" in told.err
