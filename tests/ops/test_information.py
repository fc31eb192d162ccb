import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from amal.networks.policies import GRUPolicy, MLPPolicy
from amal.ops.information import (
    EnsembleInformationGain,
    MutualInformationEstimator,
    ensemble_information,
    mixture_log_likelihood,
    policy_information,
    realised_action_information,
)
from amal.ops.losses import masked_log_softmax
from amal.ops.populations import flat_parameters

N_TRANSITIONS, N_AGENTS, OBS_DIM, STATE_DIM, N_ACTIONS = 12, 3, 6, 4, 5
NAN = float("nan")


@dataclass(frozen=True)
class Sample:
    obs: Tensor
    state: Tensor
    actions: Tensor
    available_actions: Tensor
    next_obs: Tensor
    alive: Tensor


class TableModel:
    """Log-likelihood of what was observed, by an action's offset from the realised one; checks what it is given."""

    def __init__(self, by_offset: list[float], constant: float = 0.0) -> None:
        self.by_offset = torch.tensor(by_offset)
        self.constant = constant
        self.n_calls = 0

    def log_likelihood_by_action(
        self, obs: Tensor, state: Tensor, actions: Tensor, next_obs: Tensor, wanted: Tensor
    ) -> Tensor:
        assert obs.isfinite().all() and next_obs.isfinite().all()
        self.n_calls += 1
        offsets = (torch.arange(N_ACTIONS) - actions.unsqueeze(-1)) % N_ACTIONS
        return torch.where(wanted, self.by_offset[offsets] + self.constant, 0.0)


class StubEnsemble:
    """Members whose predictions of every number differ by the given amounts."""

    def __init__(self, means: list[float], log_vars: list[float]) -> None:
        self.means, self.log_vars = torch.tensor(means), torch.tensor(log_vars)

    def outcomes(self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        assert obs.isfinite().all()
        shape = (len(self.means), *obs.shape)
        means = torch.where(alive.unsqueeze(-1), self.means.view(-1, 1, 1, 1).expand(shape), NAN)
        return means, self.log_vars.view(-1, 1, 1, 1).expand(shape)


DISTINGUISHING = [0.0] + [-1e4] * (N_ACTIONS - 1)


@pytest.fixture
def policy() -> MLPPolicy:
    torch.manual_seed(0)
    policy = MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=(16, 16))
    with torch.no_grad():
        policy.layers.last.weight.mul_(100)  # an opinion, unlike at the start
    return policy


@pytest.fixture
def sample() -> Sample:
    """Some are dead, and then observe NaN; the living have the last action unavailable."""
    generator = torch.Generator().manual_seed(0)
    alive = torch.rand(N_TRANSITIONS, N_AGENTS, generator=generator) < 0.7
    alive[0], alive[1] = False, True
    available = torch.ones(N_TRANSITIONS, N_AGENTS, N_ACTIONS, dtype=torch.bool)
    available[..., 0] = ~alive
    available[..., 1:] = alive.unsqueeze(-1)
    available[..., -1] = False
    obs, next_obs = torch.randn(2, N_TRANSITIONS, N_AGENTS, OBS_DIM, generator=generator)
    return Sample(
        obs=torch.where(alive.unsqueeze(-1), obs, NAN),
        state=torch.randn(N_TRANSITIONS, STATE_DIM, generator=generator),
        actions=torch.where(alive, torch.randint(1, N_ACTIONS - 1, alive.shape, generator=generator), 0),
        available_actions=available,
        next_obs=torch.where(alive.unsqueeze(-1), next_obs, NAN),
        alive=alive,
    )


def log_probs_of(*probabilities: float) -> Tensor:
    p = torch.tensor(probabilities)
    return masked_log_softmax(p.clamp_min(1e-30).log(), p > 0)


def test_mixture_by_hand() -> None:
    likelihoods = torch.tensor([0.2, 0.8, 0.5]).log()
    mixture = mixture_log_likelihood(log_probs_of(0.5, 0.25, 0.25), likelihoods)
    torch.testing.assert_close(mixture, torch.tensor(math.log(0.1 + 0.2 + 0.125)))


@pytest.mark.parametrize("junk", [0.0, 3e38, -3e38])
def test_unavailable_actions_do_not_enter_the_mixture(junk: float) -> None:
    mixture = mixture_log_likelihood(log_probs_of(0.5, 0.5, 0.0), torch.tensor([-1000.0, -1000.0, junk]))
    torch.testing.assert_close(mixture, torch.tensor(-1000.0))


def test_policy_information_by_hand() -> None:
    own = torch.tensor([0.5, 0.1]).log()
    others = torch.tensor([[0.2, 0.1], [0.3, 0.1]]).log()
    torch.testing.assert_close(policy_information(own, others), torch.tensor([math.log(0.5 / 0.25), 0.0]))


def test_realised_action_information_by_hand() -> None:
    log_probs = log_probs_of(0.5, 0.5, 0.0).view(1, 1, 3)
    others = torch.stack([log_probs_of(0.25, 0.75, 0.0), log_probs_of(0.0, 1.0, 0.0)]).view(2, 1, 1, 3)
    information = realised_action_information(log_probs, others, torch.tensor([[0]]))
    torch.testing.assert_close(information, torch.tensor([[math.log(0.5 / 0.125)]]))


def test_disjoint_policies_under_a_distinguishing_model_give_log_k() -> None:
    policies = masked_log_softmax(torch.zeros(N_ACTIONS, N_ACTIONS), torch.eye(N_ACTIONS, dtype=torch.bool))
    deterministic = torch.tensor(DISTINGUISHING)
    mixtures = mixture_log_likelihood(policies, deterministic)  # the first policy is the one that acted
    torch.testing.assert_close(policy_information(mixtures[0], mixtures), torch.tensor(math.log(N_ACTIONS)))
    realised = realised_action_information(
        policies[:1].view(1, 1, -1), policies.view(N_ACTIONS, 1, 1, -1), torch.tensor([[0]])
    )
    torch.testing.assert_close(realised, torch.tensor([[math.log(N_ACTIONS)]]))


def test_ensemble_information_by_hand() -> None:
    means = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    variances = torch.tensor([[1.0, 1.0], [3.0, 4.0]])
    # first number: mixture 2 + 1, members ½ log 3; second: mixture 5/2, members ½ log 4
    expected = 0.5 * (math.log(3.0) - 0.5 * math.log(3.0)) + 0.5 * (math.log(2.5) - 0.5 * math.log(4.0))
    torch.testing.assert_close(ensemble_information(means, variances.log()), torch.tensor(expected))
    agreeing = torch.randn(1, 7, 9).expand(3, 7, 9)
    assert torch.allclose(ensemble_information(agreeing, agreeing), torch.zeros(7), atol=1e-6)


def test_ensemble_information_is_exact_to_small_disagreement() -> None:
    means = torch.tensor([[1e-4], [-1e-4]])
    # ½ log(1 + 1e-8), which 1 + 1e-8 would round to 0
    torch.testing.assert_close(ensemble_information(means, torch.zeros(2, 1)), torch.tensor(0.5e-8))


def by_hand(estimator: MutualInformationEstimator, model: TableModel, policy: MLPPolicy, sample: Sample) -> Tensor:
    """The exact estimate in double precision, one policy and one agent at a time."""
    noise = estimator._perturbations(flat_parameters(policy))
    original = flat_parameters(policy)
    probabilities = []
    for parameters in [original, *(original + estimator.perturbation_std * noise)]:
        torch.nn.utils.vector_to_parameters(parameters, policy.parameters())
        with torch.no_grad():
            logits = policy(sample.obs.nan_to_num().unsqueeze(1), policy.initial_hidden(N_TRANSITIONS))[0].squeeze(1)
        probabilities.append(masked_log_softmax(logits, sample.available_actions).double().exp())
    torch.nn.utils.vector_to_parameters(original, policy.parameters())
    terms = torch.zeros(N_TRANSITIONS, dtype=torch.double)
    for m, n in sample.alive.nonzero().tolist():
        offsets = (torch.arange(N_ACTIONS) - sample.actions[m, n]) % N_ACTIONS
        likelihoods = model.by_offset[offsets].double().exp()
        own, *others = [float((p[m, n] * likelihoods).sum()) for p in probabilities]
        terms[m] += math.log(own / (sum(others) / len(others)))
    return (terms / sample.alive.sum(-1).clamp_min(1)).float()


# a density of hundreds of nats is what 80 numbers predicted well have
@pytest.mark.parametrize("constant", [0.0, 400.0])
def test_estimator_by_hand(policy: MLPPolicy, sample: Sample, constant: float) -> None:
    estimator = MutualInformationEstimator(n_policies=4)
    model = TableModel([-0.5, -1.0, -4.0, -2.0, -0.1], constant)
    information = estimator.per_transition(model, policy, sample)
    assert information.shape == (N_TRANSITIONS,)
    assert information[0] == 0.0  # nobody lives
    assert (information[1:].abs() > 1e-5).any()
    torch.testing.assert_close(information, by_hand(estimator, model, policy, sample), rtol=1e-3, atol=2e-5)
    assert model.n_calls == 1


@pytest.mark.parametrize("exact", [True, False])
def test_identical_policies_give_nothing(policy: MLPPolicy, sample: Sample, exact: bool) -> None:
    estimator = MutualInformationEstimator(perturbation_std=0.0, exact=exact)
    information = estimator.per_transition(TableModel([-0.5, -1.0, -4.0, -2.0, -0.1]), policy, sample)
    assert (information.abs() <= 1e-6).all()


def test_an_action_independent_model_gives_nothing(policy: MLPPolicy, sample: Sample) -> None:
    information = MutualInformationEstimator().per_transition(TableModel([300.0] * N_ACTIONS), policy, sample)
    assert (information.abs() <= 1e-6).all()


def test_importance_sampling_is_exact_when_the_outcome_tells_the_action(policy: MLPPolicy, sample: Sample) -> None:
    exact = MutualInformationEstimator().per_transition(TableModel(DISTINGUISHING), policy, sample)
    model = TableModel(DISTINGUISHING)
    realised = MutualInformationEstimator(exact=False).per_transition(model, policy, sample)
    torch.testing.assert_close(realised, exact)
    assert exact.abs().max() > 1e-3
    assert model.n_calls == 0


@pytest.mark.parametrize("exact", [True, False])
def test_the_dead_have_no_influence(policy: MLPPolicy, sample: Sample, exact: bool) -> None:
    estimator = MutualInformationEstimator(exact=exact)
    model = TableModel([-0.5, -1.0, -4.0, -2.0, -0.1])
    information = estimator.per_transition(model, policy, sample)
    assert information.isfinite().all()
    available = sample.available_actions.clone()
    available[~sample.alive] = False
    altered = replace(
        sample,
        obs=sample.obs.nan_to_num(7.0),
        next_obs=sample.next_obs.nan_to_num(-7.0),
        actions=torch.where(sample.alive, sample.actions, 2),
        available_actions=available,
    )
    assert torch.equal(estimator.per_transition(model, policy, altered), information)


def test_perturbations_are_drawn_once_and_are_the_same_everywhere(policy: MLPPolicy, sample: Sample) -> None:
    model, estimator = TableModel([-0.5, -1.0, -4.0, -2.0, -0.1]), MutualInformationEstimator()
    first = estimator.per_transition(model, policy, sample)
    noise = estimator._noise
    torch.rand(1)
    assert torch.equal(estimator.per_transition(model, policy, sample), first)
    assert estimator._noise is noise
    assert torch.equal(MutualInformationEstimator().per_transition(model, policy, sample), first)
    wider = MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=(24,))
    estimator.per_transition(model, wider, sample)
    assert estimator._noise.shape == (10, len(flat_parameters(wider)))


def test_estimate_mi_averages_evenly_spaced_transitions(policy: MLPPolicy, sample: Sample) -> None:
    model = TableModel([-0.5, -1.0, -4.0, -2.0, -0.1])
    arguments = (sample.obs, sample.actions, sample.state, sample.available_actions, sample.next_obs)
    information = MutualInformationEstimator().per_transition(model, policy, sample)
    every_third = MutualInformationEstimator(n_samples=4).estimate_mi(model, policy, *arguments)
    assert isinstance(every_third, float)
    # transitions 0, 3, 6, 9; in the first nobody lives
    counts = sample.alive[::3].any(-1)
    assert counts.tolist() == [False, True, True, True]
    assert every_third == pytest.approx(float(information[::3][counts].mean()), abs=1e-6)
    whole = MutualInformationEstimator().estimate_mi(model, policy, *arguments)
    assert whole == pytest.approx(float(information[sample.alive.any(-1)].mean()), abs=1e-6)
    with pytest.raises(ValueError, match="at least one transition"):
        MutualInformationEstimator().estimate_mi(model, policy, *(argument[:0] for argument in arguments))


def test_ensemble_estimator_by_hand(policy: MLPPolicy, sample: Sample) -> None:
    information = EnsembleInformationGain().per_transition(StubEnsemble([0.0, 2.0], [0.0, 0.0]), policy, sample)
    # variance 1 + 1 against 1, in each of the numbers observed
    expected = torch.where(sample.alive.any(-1), OBS_DIM * 0.5 * math.log(2.0), 0.0)
    torch.testing.assert_close(information, expected)
    agreeing = StubEnsemble([1.0, 1.0], [-3.0, -3.0])
    assert torch.equal(EnsembleInformationGain().per_transition(agreeing, policy, sample), torch.zeros(N_TRANSITIONS))
    arguments = (sample.obs, sample.actions, sample.state, sample.available_actions, sample.next_obs)
    mean = EnsembleInformationGain().estimate_mi(StubEnsemble([0.0, 2.0], [0.0, 0.0]), policy, *arguments)
    assert mean == pytest.approx(OBS_DIM * 0.5 * math.log(2.0), abs=1e-5)
    only_stop = torch.arange(N_ACTIONS).expand(sample.available_actions.shape) == 1  # who can only stop lives, too
    views = (sample.obs.nan_to_num(), sample.next_obs.nan_to_num())
    stopping = (views[0], *arguments[1:3], only_stop, views[1])
    assert EnsembleInformationGain().estimate_mi(StubEnsemble([0.0, 2.0], [0.0, 0.0]), policy, *stopping) > 1e-3


def test_one_member_cannot_disagree(policy: MLPPolicy, sample: Sample) -> None:
    with pytest.raises(ValueError, match="at least 2 members to disagree, got 1"):
        EnsembleInformationGain().per_transition(StubEnsemble([0.0], [0.0]), policy, sample)


def test_recurrent_policies_are_refused(sample: Sample) -> None:
    policy = GRUPolicy(OBS_DIM, N_AGENTS, N_ACTIONS)
    with pytest.raises(ValueError, match="only feed-forward policies"):
        MutualInformationEstimator().per_transition(TableModel(DISTINGUISHING), policy, sample)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
        ({"n_policies": 0}, "n_policies must be at least 1, got 0"),
        ({"perturbation_std": -1.0}, "perturbation_std must be finite and at least 0, got -1.0"),
        ({"perturbation_std": NAN}, "perturbation_std must be finite and at least 0, got nan"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MutualInformationEstimator(**arguments)
