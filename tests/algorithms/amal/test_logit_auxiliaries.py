"""Auxiliary agents that act in the team's imagination: how they act, and who is selected."""

import copy
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from amal.algorithms.amal import LogitAuxiliaries
from amal.algorithms.amal.imagination import imagine, split_half_correlation
from amal.algorithms.amal.imagined_battles import Outcome, Views
from amal.algorithms.amal.logit_auxiliaries import DeviatingTeam, first_advantages
from amal.replay import RealSequences
from tests.algorithms.amal.test_algorithm import evolving
from tests.algorithms.amal.test_imagination import batch_of, built, real
from tests.algorithms.episodes import N_ACTIONS, N_AGENTS, parameters, random_batch, train

PAID = 3
SMALL: dict[str, Any] = {
    "num_auxiliary_agents": 3,
    "evolution_frequency": 1,
    "cem_population_size": 10,
    "cem_elite_fraction": 0.3,
    "starts": 4,
}


def auxiliaries(**options: Any) -> LogitAuxiliaries:
    return LogitAuxiliaries(**{**SMALL, **options})


def probe() -> tuple[Tensor, Tensor]:
    batch = random_batch(3, (5,))
    return batch.obs[0, :5], batch.available_actions[0, :5]


def test_the_team_acts_in_most_battles_and_each_auxiliary_agent_in_its_turn() -> None:
    population = torch.arange(1.0, 4.0).view(3, 1, 1).expand(3, N_AGENTS, N_ACTIONS)
    offsets = auxiliaries(share=0.5).offsets(population, 10)
    assert offsets[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]


def test_a_deviating_team_prefers_what_is_added_and_says_how_likely_that_was_to_the_team() -> None:
    learner = built({})
    obs, available = probe()
    offsets = torch.zeros(5, N_AGENTS, N_ACTIONS)
    hidden = learner.initial_hidden(5)
    same = DeviatingTeam(learner, offsets)
    theirs = same.act(obs, available, hidden, Generator().manual_seed(0), 0.0)
    ours = learner.act(obs, available, hidden, Generator().manual_seed(0), 0.0)
    assert torch.equal(theirs[0], ours[0]) and torch.equal(theirs[1], ours[1]), "without a difference it is the team"
    assert (same.importance() == 1.0).all()

    offsets[..., 2] = 50.0
    deviating = DeviatingTeam(learner, offsets)
    for _ in range(2):
        actions, log_probs, _ = deviating.act(obs, available, hidden, Generator().manual_seed(0), 0.0)
    free = available[..., 2]
    assert free.any() and (actions[free] == 2).all()
    chances = learner.action_scores(obs, available, hidden).scores.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probs.exp(), chances)
    expected = torch.where(free, chances, 1.0).prod(dim=-1)  # the others act as the team, or have no choice
    taken = ~free & (available.sum(dim=-1) > 1)
    torch.testing.assert_close(
        deviating.importance()[~taken.any(dim=-1)], expected[~taken.any(dim=-1), None].expand(-1, 2)
    )
    assert torch.equal(deviating.action_scores(obs, available, hidden).scores[free].argmax(dim=-1), actions[free])


def test_those_are_selected_that_earn_more() -> None:
    chosen, told = select("fitness")
    advantages, candidates = scripted()
    best = advantages.argsort(descending=True)[:3]
    assert torch.equal(chosen, candidates[best].view(3, N_AGENTS, N_ACTIONS))
    assert told["selected_advantage"].item() == pytest.approx(float(advantages[best].mean() - advantages.mean()))


def test_random_selection_is_blind() -> None:
    """Whatever they earn, the same are chosen; another generator chooses others."""
    advantages, _ = scripted()
    (chosen, _), (reversed_, _) = select("random"), select("random", -advantages)
    assert torch.equal(chosen, reversed_)
    assert not torch.equal(chosen, select("random", seed=2)[0])


def scripted() -> tuple[Tensor, Tensor]:
    g = Generator().manual_seed(0)
    return 100.0 * torch.randn(10, generator=g), torch.randn(10, N_AGENTS * N_ACTIONS, generator=g)


def select(selection: str, advantages: Tensor | None = None, seed: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    part = auxiliaries(selection=selection)
    earned, candidates = scripted()
    advantages = earned if advantages is None else advantages
    search = part.build(N_AGENTS * N_ACTIONS)
    return part.evolve(search, built({}), candidates, advantages, *probe(), Generator().manual_seed(seed))


class Paying:
    """Battles without an end that pay every agent's choice of one action."""

    past = 0

    def __init__(self, moments: RealSequences) -> None:
        self.views = Views(moments.last.obs, moments.last.state, torch.ones_like(moments.last.available_actions))

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        last = moments.last
        self.views = Views(last.obs, last.state, torch.ones_like(last.available_actions))
        return self.views

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        return Outcome(self.views, (actions == PAID).sum(dim=1).float(), torch.zeros(len(actions), dtype=torch.bool))


def test_candidates_that_prefer_what_pays_are_the_fittest_and_earn_more_than_the_team() -> None:
    options = {"cem_initial_std": 3.0, "cem_population_size": 20, "cem_elite_fraction": 0.25, "starts": 16}
    part = auxiliaries(num_auxiliary_agents=5, share=0.5, distance_weight=0.0, **options)
    learner = built({"auxiliaries": part, "warm_up": 0})
    buffer, (obs, available) = real(), probe()
    battles = Paying(buffer.sample_sequences(1, 1))
    search = part.build(N_AGENTS * N_ACTIONS)
    candidates = copy.deepcopy(search).ask(Generator().manual_seed(0)).unflatten(-1, (N_AGENTS, N_ACTIONS))
    assert learner.imagination is not None
    inside = (search, learner, battles, buffer, learner.population, obs, available)
    fittest, told = learner.imagination.evolve(*inside, Generator().manual_seed(0))
    preference = candidates[..., PAID] - candidates.logsumexp(dim=-1)
    best = candidates[preference.exp().sum(dim=-1).argsort(descending=True)[:8]]  # 5 of 20 by chance: 0.4 %
    assert all(any(torch.equal(chosen, other) for other in best) for chosen in fittest)
    assert told["reliability"] > 0.8

    team = DeviatingTeam(learner, part.offsets(fittest, 40))
    episodes = imagine(battles, team, buffer.sample_sequences(40, 1), 3, Generator().manual_seed(1), 0.0)
    assert part.gain(learner, episodes) > 0.5


def test_reliability_is_the_correlation_between_two_halves_of_the_starts() -> None:
    scores = torch.tensor(
        [[1.0, 2.0, 3.0, 2.0], [2.0, 6.0, 2.0, 2.0], [6.0, 3.0, 4.0, 3.0]]
    )  # means 2, 2, 5 and 2, 4, 3
    assert split_half_correlation(scores).item() == pytest.approx(0.0, abs=1e-6)
    assert split_half_correlation(scores[:, [0, 0, 2, 2]]).item() == pytest.approx(1.0)
    assert split_half_correlation(scores[:, :1]).isnan()


def test_advantages_are_in_standard_deviations_of_returns() -> None:
    learner, episodes = built({}), random_batch(0, (6, 4))
    before = first_advantages(learner, episodes)
    learner.value_normalizer.variance.fill_(4.0)
    _, advantages, _ = learner.returns_and_advantages(episodes)
    torch.testing.assert_close(first_advantages(learner, episodes), advantages[:, 0].mean(dim=-1) / 2.0)
    assert before.shape == (2,)


def test_they_stay_as_they_are_before_the_warm_up() -> None:
    learner = built({"auxiliaries": auxiliaries(), "warm_up": 10**6})
    train(learner, batch_of, n_batches=1, trainer=evolving())
    assert (learner.population == 0).all() and learner.evolution_metrics["train/auxiliary_diversity"].isnan()


def test_evolution_moves_them_and_the_policy_learns_from_them() -> None:
    learners = [built({"auxiliaries": auxiliaries(share=share), "warm_up": 0}) for share in (0.0, 0.5)]
    for learner in learners:
        train(learner, batch_of, n_batches=2, trainer=evolving())
        assert (learner.population != 0).any()
        assert learner.world_model is not None
    one, other = (parameters(learner) for learner in learners)
    assert any(not torch.equal(one[name], other[name]) for name in one if name.startswith("policy."))
    same = [name for name in one if name.startswith("world_model.")]
    assert same and all(torch.equal(one[name], other[name]) for name in same), "isolation"


def test_steps_of_auxiliary_agents_are_weighted_and_those_of_the_team_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = built({"auxiliaries": auxiliaries(share=0.5, cem_initial_std=2.0), "warm_up": 0})
    estimate, weights = learner.estimate_advantages, []

    def spy(*arguments: Any, **options: Any) -> Any:
        weights.append(options.get("importance"))
        return estimate(*arguments, **options)

    monkeypatch.setattr(learner, "estimate_advantages", spy)
    train(learner, batch_of, n_batches=2, trainer=evolving())  # before the first there is nothing to evolve from
    of_real, *imagined = weights[3:]
    assert of_real is None and len(imagined) == 2
    for importance in imagined:
        ours, theirs = importance.split(3)
        assert (ours == 1.0).all() and (theirs < 1.0).any() and (theirs > 0.0).all()


def test_returns_that_know_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="n_step_returns must be null with imagination.auxiliaries"):
        built({"auxiliaries": auxiliaries()}, n_step_returns=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share must be"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"selection": "best"}, "selection must be"),
        ({"num_auxiliary_agents": 4}, "at most the elites"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auxiliaries(**options)


def test_candidates_are_judged_from_the_same_moments_as_the_team(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = built({"auxiliaries": auxiliaries(), "warm_up": 0})
    train(learner, batch_of, n_batches=2, trainer=evolving())
    battles = learner.imagined_battles
    assert learner.imagination is not None and learner.search is not None and battles is not None
    seen: list[tuple[Tensor, int]] = []
    reset = battles.reset

    def watched(moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        seen.append((moments.last.obs, copies))
        return reset(moments, generator, copies)

    monkeypatch.setattr(battles, "reset", watched)
    inside = (battles, real(), learner.population, *probe())
    learner.imagination.evolve(learner.search, learner, *inside, Generator().manual_seed(0))
    [(obs, copies)] = seen
    everyone = obs.unflatten(0, (copies, SMALL["starts"]))
    assert copies == 1 + SMALL["cem_population_size"] and len(obs[: SMALL["starts"]].unique(dim=0)) > 1
    assert torch.equal(everyone, everyone[:1].expand_as(everyone))
