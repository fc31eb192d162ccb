"""World models: networks from views and a joint action to what follows, p_θ(o', s', r, done | o, s, a).

Letters: M transitions, N agents, O observation size, S state size, A actions, H features, R rows, E ensemble members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from amal.battle.battlefield import Scenario
from amal.networks.layers import RELU_GAIN, AgentLinear, logistic, orthogonal_linear
from amal.ops.losses import masked_mean, total

if TYPE_CHECKING:
    from amal.replay import RealExperience, RealSequences

# a lower minimum lets features that hardly vary outweigh all others in the gradient: with -10, errors of 5-step
# predictions on 2s3z after 1000 updates (one seed) were larger by about 35 % (observations) and 70 % (state)
MIN_LOG_VAR, MAX_LOG_VAR = -5.0, 2.0
HEAD_GAIN, NO_OP_BIAS = 0.01, -2.0  # an untrained model says that nothing changes and nobody dies
NO_OP, STOP = 0, 1
ROWS_AT_ONCE = 2048  # whose hidden features fit into a core's cache


@dataclass(frozen=True)
class Prediction:
    """What a model expects after a step; anything finite for agents that were dead before it."""

    obs_mean: Tensor  # [M, N, O]
    obs_log_var: Tensor  # [M, N, O]
    available_logits: Tensor  # [M, N, A]
    state_mean: Tensor  # [M, S]
    state_log_var: Tensor  # [M, S]
    reward: Tensor  # [M], the team's
    done_logit: Tensor  # [M]


class ImaginedStep(NamedTuple):
    """One outcome of a step, as the simulator would have reported it."""

    next_obs: Tensor  # [M, N, O]
    next_state: Tensor  # [M, S]
    reward: Tensor  # [M]
    done: Tensor  # [M] bool
    next_available: Tensor  # [M, N, A] bool


def bounded_log_var(raw: Tensor) -> Tensor:
    """l_min + (l_max − l_min) σ(x), between ``MIN_LOG_VAR`` and ``MAX_LOG_VAR``; [...] x → [...]."""
    return logistic(raw).mul(MAX_LOG_VAR - MIN_LOG_VAR).add_(MIN_LOG_VAR)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(x; μ, diag e^l) = −½ Σ_d [(x_d − μ_d)² e^(−l_d) + l_d + log 2π]; x, μ and l [..., D] → [...]."""
    errors = torch.addcmul(log_var, (x - mean).square(), torch.exp(-log_var))
    return -0.5 * (errors.sum(dim=-1) + x.shape[-1] * math.log(2 * math.pi))


def gaussian_loss(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """β-NLL with β = ½ (Seitzer et al. 2022, arXiv:2203.09168, eq. 5): 1/D Σ_d ⌊σ_d⌋ ½ [(x_d − μ_d)²/σ²_d + log σ²_d].

    ⌊·⌋ is not differentiated. Without it the numbers that hardly ever change outweigh all others in the gradient.
    x, μ and l = log σ² [..., D] → [...].
    """
    likelihood = torch.addcmul(log_var, (x - mean).square(), torch.exp(-log_var))
    return 0.5 * (torch.exp(0.5 * log_var.detach()) * likelihood).mean(dim=-1)


def world_model_losses(prediction: Prediction, experience: RealExperience) -> dict[str, Tensor]:
    """Losses by part, of what really happened.

    Over agents that were alive before the step: "obs" ``gaussian_loss``, "available" the mean binary cross-entropy.
    Over transitions: "state" ``gaussian_loss``, "reward" ½ (r̂ − r)², "done" the binary cross-entropy. Views of agents
    that were dead may hold anything.
    """
    alive, next_state = experience.alive, experience.next_state
    # before the likelihood: a NaN behind it would come back through its gradient, 0 · NaN
    next_obs = torch.where(alive.unsqueeze(-1), experience.next_obs, 0.0)
    obs = gaussian_loss(next_obs, prediction.obs_mean, prediction.obs_log_var)
    state = gaussian_loss(next_state, prediction.state_mean, prediction.state_log_var)
    available = _cross_entropy(prediction.available_logits, experience.next_available_actions)
    done = _cross_entropy(prediction.done_logit, experience.done)
    reward = 0.5 * (prediction.reward - experience.rewards[:, 0]).square()
    return {
        "obs": masked_mean(obs, alive),
        "available": masked_mean(available.mean(dim=-1), alive),
        "state": total(state) / len(state),
        "reward": total(reward) / len(reward),
        "done": total(done) / len(done),
    }


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="none")


def combined(parts: Mapping[str, Tensor]) -> Tensor:
    """The loss to minimise, Σ of the parts of ``world_model_losses``; scalar."""
    return torch.stack(list(parts.values())).sum()


def sample_step(
    prediction: Prediction, alive: Tensor, generator: Generator | None = None, noisy_views: bool = False
) -> ImaginedStep:
    """One outcome of a predicted step: deaths and the end are drawn, or without a generator their modes; views are
    their means.

    The outcome is made one that the simulator could report. Views lie in [−1, 1]. The dead stay dead, an agent whose
    no-op becomes available has died, and both see zeros and have only the no-op; the living have everything else that
    is expected, and stop always. Nobody alive ends the episode.

    Args:
        prediction, alive: of M transitions, and who was alive before them, [M, N] bool.
        generator: source of chance.
        noisy_views: draw views, too, and take the mode of deaths, as of ``WorldModel``.
    """
    spreads = (prediction.obs_log_var, prediction.state_log_var)
    next_obs, next_state = (
        _draw(mean, log_var, generator if noisy_views else None).clamp(-1.0, 1.0)
        for mean, log_var in zip((prediction.obs_mean, prediction.state_mean), spreads, strict=True)
    )
    done_chance = logistic(prediction.done_logit)
    u = 0.5 if generator is None else torch.rand(done_chance.shape, generator=generator, device=done_chance.device)
    death_chance = logistic(prediction.available_logits[..., NO_OP])
    v: Tensor | float = 0.5
    if generator is not None and not noisy_views:
        v = torch.rand(death_chance.shape, generator=generator, device=death_chance.device)
    lives = alive & (death_chance <= v)
    available = (prediction.available_logits > 0) & lives.unsqueeze(-1)
    available[..., STOP] = lives
    available[..., NO_OP] = ~lives
    done = (done_chance > u) | ~lives.any(dim=-1)
    return ImaginedStep(torch.where(lives.unsqueeze(-1), next_obs, 0.0), next_state, prediction.reward, done, available)


def _draw(mean: Tensor, log_var: Tensor, generator: Generator | None) -> Tensor:
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + torch.exp(0.5 * log_var) * noise


class LearnedModel(Protocol):
    """What a world model's learning needs of an ``nn.Module``."""

    past: int  # real steps before a moment that tell something about it

    def losses(self, sequences: RealSequences) -> dict[str, Tensor]:
        """Losses by part, of real stretches of ``past`` + 1 steps."""

    def learn_rest(self, sequences: RealSequences) -> None:
        """Learns from them what has no gradient."""


class WorldModel(nn.Module):
    """MLP on own observation ⊕ own action ⊕ state ⊕ joint action ⊕ agent id, shared by the agents.

    Each agent's encoding yields its next observation, as a change, and its next available actions. The mean encoding of
    the agents alive yields the next state, as a change, the reward and whether the episode ends.

    Args:
        n_agents, n_actions, obs_dim, state_dim: N, A, O, S.
        scenario: not needed, nothing is asked but sizes.
        hidden_dims: width of each layer of the encoder.
        decoder_dims: width of each layer between encoding and heads, in a decoder for agents and one for the team.
        noisy_views: imagined views are drawn from their Gaussians, and agents die where that is likelier. By default
            views are the means, and deaths are drawn.
    """

    past = 0

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        scenario: Scenario | None = None,
        hidden_dims: Sequence[int] = (256, 256, 128),
        decoder_dims: Sequence[int] = (),
        noisy_views: bool = False,
    ) -> None:
        super().__init__()
        if len(hidden_dims) == 0 or min(*hidden_dims, *decoder_dims, 1) < 1:
            sizes = f"{list(hidden_dims)} and {list(decoder_dims)}"
            raise ValueError(f"hidden_dims must not be empty, and all sizes at least 1, got {sizes}")
        self.n_agents, self.n_actions, self.obs_dim, self.state_dim = n_agents, n_actions, obs_dim, state_dim
        self.noisy_views = noisy_views
        in_features = obs_dim + n_actions + state_dim + n_agents * n_actions
        self.first = AgentLinear(in_features, n_agents, hidden_dims[0])
        self.encoder = _relu_layers(hidden_dims)
        decoder_dims = (hidden_dims[-1], *decoder_dims)
        self.agent_decoder, self.team_decoder = _relu_layers(decoder_dims), _relu_layers(decoder_dims)
        self.agent_head = orthogonal_linear(decoder_dims[-1], 2 * obs_dim + n_actions, HEAD_GAIN)
        self.team_head = orthogonal_linear(decoder_dims[-1], 2 * state_dim + 2, HEAD_GAIN)
        nn.init.constant_(self.agent_head.bias[2 * obs_dim + NO_OP], NO_OP_BIAS)

    def forward(self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor) -> Prediction:
        """Views [M, N, O] (of agents not alive they may hold anything) and [M, S], actions [M, N] int64 and who was
        alive before them, [M, N] bool → what is expected next."""
        obs = torch.where(alive.unsqueeze(-1), obs, 0.0)
        encoding = self.encoder(F.relu(self._before_relu(obs, state, actions), inplace=True))
        agent_outputs = self.agent_head(self.agent_decoder(encoding)).to(obs.dtype).unflatten(0, alive.shape)
        pooled = torch.where(alive.unsqueeze(-1), encoding.unflatten(0, alive.shape), 0.0).sum(dim=1)
        pooled = pooled / alive.sum(dim=1, keepdim=True).clamp_min(1)
        team_outputs = self.team_head(self.team_decoder(pooled)).to(obs.dtype)
        obs_change, obs_spread, available_logits = agent_outputs.split([self.obs_dim, self.obs_dim, self.n_actions], -1)
        state_change, state_spread, reward, done_logit = team_outputs.split([self.state_dim, self.state_dim, 1, 1], -1)
        team = state + state_change, bounded_log_var(state_spread), reward.squeeze(-1), done_logit.squeeze(-1)
        return Prediction(obs + obs_change, bounded_log_var(obs_spread), available_logits, *team)

    def losses(self, sequences: RealSequences) -> dict[str, Tensor]:
        """Losses by part, of the last steps of real stretches, as of ``world_model_losses``."""
        real = sequences.last
        return world_model_losses(self(real.obs, real.state, real.actions, real.alive), real)

    def learn_rest(self, sequences: RealSequences) -> None:
        """Does nothing: all of the model is trained by gradients."""

    def predict(
        self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor, generator: Generator | None = None
    ) -> ImaginedStep:
        """One outcome of a step; arguments as of ``forward`` and ``sample_step``."""
        return sample_step(self(obs, state, actions, alive), alive, generator, self.noisy_views)

    def log_likelihood_by_action(
        self, obs: Tensor, state: Tensor, actions: Tensor, next_obs: Tensor, wanted: Tensor
    ) -> Tensor:
        """log p(o' | h, a) of next_obs [M, N, O] for an agent's own actions a and the others' as they were → [M, N, A],
        0 where not ``wanted`` [M, N, A] bool. Other arguments as of ``forward``; observations of agents of whom nothing
        is wanted may hold anything."""
        changed = (next_obs - obs).flatten(0, 1)
        likelihoods = changed.new_zeros(wanted.numel())
        for which, change, log_var in self._changes_by_action(obs, state, actions, wanted):
            rows = changed.index_select(0, which // self.n_actions)
            likelihoods = likelihoods.index_copy(0, which, gaussian_log_likelihood(rows, change, log_var))
        return likelihoods.view(wanted.shape)

    def _changes_by_action(
        self, obs: Tensor, state: Tensor, actions: Tensor, wanted: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What agents would see next, had each alone acted differently, in parts: for r of the wanted actions, each
        one's index [r] in the flat [M · N · A], and the observation's expected change and log-variance, [r, O] each."""
        obs = torch.where(wanted.any(dim=-1, keepdim=True), obs, 0.0)
        by_action = self._own_action_terms()
        taken = torch.arange(self.n_agents, device=actions.device) * self.n_actions + actions
        others = self._before_relu(obs, state, actions) - by_action.index_select(0, taken.flatten())
        weight, bias = self.agent_head.weight[: 2 * self.obs_dim], self.agent_head.bias[: 2 * self.obs_dim]
        for which in wanted.flatten().nonzero().squeeze(-1).split(ROWS_AT_ONCE):
            hidden = others.index_select(0, which // self.n_actions)
            hidden += by_action.index_select(0, which % len(by_action))
            features = self.agent_decoder(self.encoder(F.relu(hidden, inplace=True)))
            change, spread = F.linear(features, weight, bias).to(obs.dtype).chunk(2, dim=-1)
            yield which, change, bounded_log_var(spread)

    def _before_relu(self, obs: Tensor, state: Tensor, actions: Tensor) -> Tensor:
        """First layer: [M · N, H]."""
        chosen = F.one_hot(actions, self.n_actions).to(obs.dtype)
        return self.first(obs, chosen, state.unsqueeze(1), chosen.flatten(1).unsqueeze(1)).flatten(0, 1)

    def _own_action_terms(self) -> Tensor:
        """What agent i's action a adds to agent i's first layer, as its own and as a part of the joint one: row
        i · A + a of [N · A, H]."""
        sizes = [self.obs_dim, self.n_actions, self.state_dim, self.n_agents * self.n_actions, self.n_agents]
        _, own, _, joint, _ = self.first.weight.split(sizes, dim=1)
        return own.t().repeat(self.n_agents, 1) + joint.t()


def _relu_layers(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [orthogonal_linear(width, following, RELU_GAIN), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
