"""What auxiliary agents live through inside a world model that does as it is told."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from amal.algorithms.amal.auxiliary_steps import imagine_steps
from amal.networks.policies import MLPPolicy
from amal.networks.world_models import ImaginedStep
from amal.ops.losses import chosen_log_probs, masked_log_softmax, sample_categorical
from amal.ops.populations import flat_parameters
from amal.replay import REAL, Experience
from tests.algorithms.episodes import N_ACTIONS, N_AGENTS, OBS_DIM, STATE_DIM

N_POLICIES, STARTS_EACH, HORIZON = 3, 2, 4
BATTLES = N_POLICIES * STARTS_EACH
ENDS = (1, 4, 2, 9, 3, 9)  # the step after which each battle is over, counted from 1


class Script(nn.Module):
    """Every view rises by one per step, agent 2 dies in the second, and battles end after the steps of ``ENDS``."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []
        self.generators: list[Generator | None] = []

    def predict(
        self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor, generator: Generator | None = None
    ) -> ImaginedStep:
        self.asked.append((obs, state, actions, alive))
        self.generators.append(generator)
        step = len(self.asked)
        available = torch.zeros(BATTLES, N_AGENTS, N_ACTIONS, dtype=torch.bool)
        available[..., 1:] = True
        if step >= 2:
            available[:, 2] = torch.arange(N_ACTIONS) == 0
        done = torch.tensor(ENDS) <= step
        return ImaginedStep(obs + 1, state + 1, 10.0 * step + torch.arange(BATTLES), done, available)


def starts() -> Experience:
    g = torch.Generator().manual_seed(0)
    available = torch.rand(BATTLES, N_AGENTS, N_ACTIONS, generator=g) < 0.5
    available[..., 0], available[..., 1] = False, True
    obs, state = (torch.randn(BATTLES, *shape, generator=g) for shape in ((N_AGENTS, OBS_DIM), (STATE_DIM,)))
    nothing = torch.full((BATTLES, N_AGENTS), 99)
    return Experience(
        obs=obs,
        state=state,
        available_actions=available,
        actions=nothing,
        log_probs=nothing.float(),
        rewards=nothing.float(),
        next_obs=obs - 50,
        next_state=state - 50,
        next_available_actions=~available,
        done=torch.ones(BATTLES, dtype=torch.bool),  # where one was over: what came before it is a start all the same
        provenance=torch.full((BATTLES,), REAL),
    )


@pytest.fixture
def policies() -> tuple[MLPPolicy, Tensor]:
    """An architecture, and the auxiliary policies' parameters."""
    torch.manual_seed(0)
    policy = MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=(8, 8))
    return policy, flat_parameters(policy) + 0.5 * torch.randn(N_POLICIES, len(flat_parameters(policy)))


def acting(policy: MLPPolicy, parameters: Tensor) -> Callable[[Tensor], Tensor]:
    own = copy.deepcopy(policy)
    nn.utils.vector_to_parameters(parameters, own.parameters())
    return lambda obs: own(obs.unsqueeze(1), own.initial_hidden(len(obs)))[0].squeeze(1).detach()


def test_every_step_is_what_the_policy_did_and_the_model_answered(policies: tuple[MLPPolicy, Tensor]) -> None:
    policy, auxiliary = policies
    script, generator = Script(), torch.Generator().manual_seed(7)
    lived = imagine_steps(script, policy, auxiliary, starts(), HORIZON, generator)
    assert all(used is generator for used in script.generators)

    chance, first, at = torch.Generator().manual_seed(7), starts(), 0
    available, who = first.available_actions, torch.arange(N_POLICIES).repeat_interleave(STARTS_EACH)
    for t in range(HORIZON):
        obs = first.obs + t
        logits = torch.cat([acting(policy, auxiliary[k])(obs[who == k]) for k in range(N_POLICIES)])
        actions = sample_categorical(masked_log_softmax(logits, available), chance)
        asked = script.asked[t]
        for found, expected in zip(asked, (obs, first.state + t, actions, ~available[..., 0]), strict=True):
            torch.testing.assert_close(found, expected)
        rows = [i for i in range(BATTLES) if ENDS[i] > t]
        steps, at = lived[torch.arange(at, at + len(rows))], at + len(rows)
        following = torch.zeros_like(available)
        following[..., 1:] = True
        if t >= 1:
            following[:, 2] = torch.arange(N_ACTIONS) == 0
        expected = Experience(
            obs=obs,
            state=first.state + t,
            available_actions=available,
            actions=actions,
            log_probs=chosen_log_probs(logits, available, actions),
            rewards=(10.0 * (t + 1) + torch.arange(BATTLES)).unsqueeze(-1).expand(-1, N_AGENTS),
            next_obs=obs + 1,
            next_state=first.state + t + 1,
            next_available_actions=following,
            done=torch.tensor(ENDS) <= t + 1,
            provenance=who,
        )[torch.tensor(rows)]
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(steps, name), value, msg=lambda text, name=name: f"{name}: {text}")
        available = following
    assert at == len(lived) == sum(min(end, HORIZON) for end in ENDS)


def test_imagined_experience_is_without_gradient_and_takes_only_the_streams_draws(
    policies: tuple[MLPPolicy, Tensor],
) -> None:
    policy, auxiliary = policies
    runs = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # what others draw must not matter
        lived = imagine_steps(Script(), policy, auxiliary, starts(), HORIZON, torch.Generator().manual_seed(seed))
        assert not lived.log_probs.requires_grad and lived.log_probs.max() <= 0 and lived.log_probs.min() < 0
        runs.append(lived.actions)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
