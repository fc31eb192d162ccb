"""Several world models together: what they expect on average, whether they agree, and how far they are from the truth.

Letters: M transitions, N agents, O observation size, S state size, A actions, E ensemble members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import cast

import torch
from torch import Generator, Tensor, nn

from amal.battle.battlefield import Scenario
from amal.networks.entity_model import HP, EntityWorldModel, disagreement
from amal.networks.world_models import ImaginedStep, LearnedModel, Prediction, WorldModel, sample_step
from amal.ops.losses import masked_mean
from amal.runtime.argument_checks import check_at_least
from amal.types import alive_agents


class WorldModelEnsemble(nn.Module):
    """Several world models with weights of their own, whose disagreement tells what they do not know.

    Args:
        factory: builds a member from the other arguments.
        ensemble_size: E.
        n_agents, n_actions, obs_dim, state_dim: N, A, O, S.
        scenario: that is fought, if it is known.
    """

    def __init__(
        self,
        factory: Callable[..., nn.Module],
        ensemble_size: int,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        scenario: Scenario | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, ensemble_size=ensemble_size)
        sizes = (n_agents, n_actions, obs_dim, state_dim)
        self.members = nn.ModuleList(factory(*sizes, scenario) for _ in range(ensemble_size))

    @property
    def is_flat(self) -> bool:
        """Whether the members predict views, and so have likelihoods of them."""
        return all(isinstance(member, WorldModel) for member in self.members)

    @property
    def past(self) -> int:
        """Real steps before a moment that the members need to see."""
        return max(cast(LearnedModel, member).past for member in self.members)

    def outcomes(self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Every member's mean and log-variance of the next observations, [E, M, N, O] each; arguments as a member's."""
        predictions = [member(obs, state, actions, alive) for member in self.members]
        return torch.stack([p.obs_mean for p in predictions]), torch.stack([p.obs_log_var for p in predictions])

    @torch.no_grad()
    def unit_disagreement(self, state: Tensor, actions: Tensor) -> Tensor:
        """[M], how far apart entity-wise members are in what they expect of units, without what came before."""
        members = [cast(EntityWorldModel, member) for member in self.members]
        units = members[0].views.units(state)
        memory = members[0].initial_memory(len(units))
        outputs = [member.expected(member(units, units, actions, memory)[0]) for member in members]
        return disagreement(torch.stack(outputs), units[..., HP] > 0)

    def log_likelihood_by_action(
        self, obs: Tensor, state: Tensor, actions: Tensor, next_obs: Tensor, wanted: Tensor
    ) -> Tensor:
        """log (1/E) Σ_e p_e(o' | h, a), [M, N, A]; 0 where not wanted. Arguments as a member's."""
        members = [cast(WorldModel, member) for member in self.members]
        each = [member.log_likelihood_by_action(obs, state, actions, next_obs, wanted) for member in members]
        mixture = torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))
        return torch.where(wanted, mixture, 0.0)

    def predict(
        self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor, generator: Generator | None = None
    ) -> ImaginedStep:
        """One outcome of a step, of a random member for each transition; without a generator, that of the members'
        average prediction. Arguments as a member's."""
        if generator is None:
            every = [member(obs, state, actions, alive) for member in self.members]
            return sample_step(_merge(every, lambda parts: torch.stack(parts).mean(dim=0)), alive)
        who = torch.randint(len(self.members), (len(obs),), generator=generator, device=obs.device)
        theirs = [(who == e).nonzero().squeeze(-1) for e in range(len(self.members))]
        chosen = zip(self.members, theirs, strict=True)
        some = [member(obs[rows], state[rows], actions[rows], alive[rows]) for member, rows in chosen]
        back = torch.cat(theirs).argsort()
        merged = _merge(some, lambda parts: torch.cat(parts).index_select(0, back))
        return sample_step(merged, alive, generator, cast(WorldModel, self.members[0]).noisy_views)


def _merge(predictions: Sequence[Prediction], merge: Callable[[list[Tensor]], Tensor]) -> Prediction:
    """One prediction out of several, field by field."""
    return Prediction(*(merge([getattr(p, f.name) for p in predictions]) for f in fields(Prediction)))


@torch.no_grad()
def open_loop_errors(
    model: WorldModel | WorldModelEnsemble,
    obs: Tensor,
    state: Tensor,
    available_actions: Tensor,
    actions: Tensor,
    horizon: int,
    happened: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean squared errors ‖x̂_{t+h} − x_{t+h}‖² / D after h steps in which the model saw only its own mean predictions,
    and those of the trivial prediction x̂_{t+h} = x_t, over all windows of h steps that happened in full, from every t.

    Args:
        obs, state, available_actions, actions: [B, T+1, N, O], [B, T+1, S], [B, T+1, N, A] bool, [B, T, N] int64.
        horizon: h, at most T.
        happened: [B, T] bool, the step happened; all of them by default.

    Returns:
        Scalars "obs" and "obs_trivial", over agents that were really alive at t and t + h, and "state" and
        "state_trivial"; NaN if there are none to compare.
    """
    if happened is None:
        happened = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
    episode, start = happened.unfold(1, horizon, 1).all(dim=-1).nonzero(as_tuple=True)
    alive = alive_agents(available_actions)
    end, living = start + horizon, alive[episode, start]
    seen_obs, seen_state = obs[episode, start], state[episode, start]
    for t in range(horizon):
        step = model.predict(seen_obs, seen_state, actions[episode, start + t], living)
        seen_obs, seen_state, living = step.next_obs, step.next_state, alive_agents(step.next_available)

    def error(prediction: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        squared = (prediction - truth[episode, end]).square().mean(dim=-1)
        return torch.where(counts.any(), masked_mean(squared, counts), math.nan)

    compared, every = alive[episode, start] & alive[episode, end], torch.ones_like(start, dtype=torch.bool)
    return {
        "obs": error(seen_obs, obs, compared),
        "obs_trivial": error(obs[episode, start], obs, compared),
        "state": error(seen_state, state, every),
        "state_trivial": error(state[episode, start], state, every),
    }
