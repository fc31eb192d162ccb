"""HAPPO: agents learn one after the other, each with what the earlier ones have changed."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning import seed_everything
from torch import Tensor

from amal.algorithms.happo import HAPPO
from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, Transitions
from amal.networks.policies import GRUPolicy
from amal.ops.losses import masked_log_softmax
from tests.algorithms.episodes import N_AGENTS, SIZES, SMALL_CRITIC, SMALL_MLP, matching_game, random_batch, train

SMALL_GRU = partial(GRUPolicy, hidden_size=8)


def built(algorithm: type[MAPPO] = HAPPO, **options: Any) -> MAPPO:
    seed_everything(0, verbose=False)
    return algorithm(**{**SIZES, "policy": SMALL_MLP, "critic": SMALL_CRITIC, "n_minibatch": 2, **options})


@pytest.mark.parametrize("policy", [SMALL_MLP, SMALL_GRU], ids=["mlp", "gru"])
def test_an_agent_learns_from_advantages_times_the_ratios_of_those_before_it(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = built(policy=policy, lr=0.05)
    batch = random_batch(1)
    shown: dict[int, Tensor] = {}  # of each agent in their order: the advantages
    changed: dict[int, Tensor] = {}  # the log-probabilities [M] of all its actions after its steps
    agent_step = HAPPO.agent_step

    def log_probs(agent: int) -> Tensor:
        """By the plain definition: of whole episodes, by the network that plays."""
        with torch.no_grad():
            logits, _ = module.policy(batch.obs[:, :-1], module.initial_hidden(len(batch.obs)))
        every = masked_log_softmax(logits, batch.available_actions[:, :-1])
        return every.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)[batch.mask][:, agent]

    def watched(self: HAPPO, agent: int, transitions: Transitions, minibatch: Minibatch) -> dict[str, Tensor]:
        shown[agent] = transitions.advantages
        metrics = agent_step(self, agent, transitions, minibatch)
        changed[agent] = log_probs(agent)
        return metrics

    monkeypatch.setattr(HAPPO, "agent_step", watched)
    train(module, lambda _: batch, n_batches=1)
    order = list(shown)
    assert sorted(order) == list(range(N_AGENTS))
    expected = shown[order[0]]  # of the first nothing is changed
    for before, agent in zip(order, order[1:], strict=False):
        ratio = (changed[before] - batch.happened("log_probs")[:, before]).exp()
        ratio = torch.where(batch.happened("alive")[:, before], ratio, 1.0)
        expected = expected * ratio.unsqueeze(-1)
        torch.testing.assert_close(shown[agent], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(shown[agent], shown[order[0]], rtol=1e-3)


def test_alone_it_is_mappo() -> None:
    """One agent, one update: nobody comes before it."""
    whole = random_batch(1)
    names = ("obs", "available_actions", "actions", "log_probs")
    batch = replace(whole, **{name: getattr(whole, name)[:, :, :1] for name in names})
    alone = {"n_agents": 1}
    modules = [built(HAPPO, **alone), built(MAPPO, **alone, share_parameters=False)]
    for module in modules:
        train(module, lambda _: batch, n_batches=1)
    pairs = zip(*(module.parameters() for module in modules), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_the_order_is_drawn_for_every_update_and_goes_on_where_it_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    agent_step = HAPPO.agent_step

    def watched(self: HAPPO, agent: int, *args: Any) -> dict[str, Tensor]:
        if orders[-1][-1:] != [agent]:
            orders[-1].append(agent)
        return agent_step(self, agent, *args)

    monkeypatch.setattr(HAPPO, "agent_step", watched)
    module = built()
    for i in range(12):
        if i == 6:
            state = module.learning_state()
        orders.append([])
        train(module, lambda _, i=i: random_batch(i), n_batches=1)
    assert all(sorted(order) == list(range(N_AGENTS)) for order in orders) and len(set(map(tuple, orders))) > 2
    module.load_learning_state(state)
    for i in range(6, 12):
        orders.append([])
        train(module, lambda _, i=i: random_batch(i), n_batches=1)
    assert orders[12:] == orders[6:12]


def test_each_agent_finds_its_part() -> None:
    module, scores = built(lr=0.01, n_minibatch=1), []
    generator = torch.Generator().manual_seed(0)
    n_updates = 30
    train(module, lambda i: matching_game(module, generator, n_updates, scores, i), n_batches=n_updates)
    assert sum(scores[-3:]) / 3 > 0.9 and scores[0] < 0.4
