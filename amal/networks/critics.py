"""Critics: networks from state and observations to one value per agent.

Letters: ``...`` any leading dimensions, B episodes, T time, N agents, O observation size, S state size, H hidden size.
In the equations a layer's bias is left out, σ is the logistic function and ⊙ the product of entries.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amal.networks.epymarl import Episodes, build_critic
from amal.networks.layers import RELU_GAIN, AgentLinear, AgentMLP, logistic, orthogonal_linear, standardized
from amal.ops.target_networks import soft_update
from amal.runtime.argument_checks import check_at_least, check_flag
from amal.types import EpisodeBatch, Layout


class Critic(nn.Module):
    """What a critic offers; built by a factory from (state_dim, obs_dim, n_agents)."""

    def arrange(self, layout: Layout | None) -> None:
        """Called once, before anything else, with the names of the state's features, or None if the back end has none.
        By default they are ignored."""

    @abstractmethod
    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        """Values per agent, in normalised units.

        Args:
            state: [..., S].
            obs: [..., N, O].

        Returns:
            [..., N].
        """


class MAPPOCritic(Critic):
    """Centralised critic: MLP on global state ⊕ agent id (MAPPO, Yu et al. 2022, arXiv:2103.01955).

    Args:
        state_dim: size of the global state.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_sizes: width of each hidden layer.
        joint_obs: the agent's own observation is an input too.
        feature_norm: layer normalisation of the state, joined with the observation if that is an input.
        layer_norm: layer normalisation after each ReLU. The authors have both.
        death_masking: a dead agent's input is zeros and its id (Yu et al. 2022, "death masking"). The dead are known by
            their observations, which are all zeros.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        n_agents: int,
        hidden_sizes: Sequence[int] = (256, 256),
        joint_obs: bool = False,
        feature_norm: bool = False,
        layer_norm: bool = False,
        death_masking: bool = False,
    ) -> None:
        super().__init__()
        check_flag(joint_obs=joint_obs, feature_norm=feature_norm, layer_norm=layer_norm, death_masking=death_masking)
        self.joint_obs, self.death_masking = joint_obs, death_masking
        in_features = state_dim + obs_dim * joint_obs
        self.layers = AgentMLP(in_features, n_agents, hidden_sizes, 1, 1.0, feature_norm, layer_norm)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        if not self.death_masking:
            return self._values(state, obs)
        # A dead agent's input is always the same, so one more step of zeros has the values of all the dead. It goes
        # with the others: products of so few rows round by number of threads.
        n_agents, obs_dim = obs.shape[-2:]
        steps = state.reshape(-1, state.shape[-1]), obs.reshape(-1, n_agents, obs_dim)
        values = self._values(F.pad(steps[0], (0, 0, 0, 1)), F.pad(steps[1], (0, 0, 0, 0, 0, 1)))
        # a product, because the gradient of an expanded tensor is added up by number of threads
        of_dead = values.new_ones(len(steps[0]), 1) @ values[-1:]
        return torch.where(steps[1].any(dim=-1), values[:-1], of_dead).view(obs.shape[:-1])

    def _values(self, state: Tensor, obs: Tensor) -> Tensor:
        shared = state.unsqueeze(-2)  # one row per step: the agents share its product with the weight
        parts = (shared, obs) if self.joint_obs else (shared,)
        values: Tensor = self.layers(*parts)
        return values.squeeze(-1)


class IPPOCritic(Critic):
    """Decentralised critic: MLP on the agent's own observation ⊕ agent id (de Witt et al. 2020, arXiv:2011.09533).

    Args:
        state_dim: size of the global state, which this critic does not see.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_sizes: width of each hidden layer.
        feature_norm: layer normalisation of the observation.
        layer_norm: layer normalisation after each ReLU. Both as of ``MAPPOCritic``.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        n_agents: int,
        hidden_sizes: Sequence[int] = (256, 256),
        feature_norm: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_flag(feature_norm=feature_norm, layer_norm=layer_norm)
        self.layers = AgentMLP(obs_dim, n_agents, hidden_sizes, 1, 1.0, feature_norm, layer_norm)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        values: Tensor = self.layers(obs)
        return values.squeeze(-1)


class FiLMCritic(Critic):
    """Centralised critic whose state features are scaled and shifted by what the agent observes.

    Feature-wise linear modulation (Perez et al. 2018, arXiv:1709.07871) with a gate in (0, 1) for the scale:

    h_s = relu(W_s state) · h_o = relu(W_o [obs, id]) · γ = σ(W_γ h_o) · β = W_β h_o
    h = LayerNorm(γ ⊙ h_s + β + h_o) · V = w · relu(W h)

    Args:
        state_dim: size of the global state.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_size: H, width of every layer.
    """

    def __init__(self, state_dim: int, obs_dim: int, n_agents: int, hidden_size: int = 256) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size)
        self.state = orthogonal_linear(state_dim, hidden_size, RELU_GAIN)
        self.observation = AgentLinear(obs_dim, n_agents, hidden_size)
        self.scale = orthogonal_linear(hidden_size, hidden_size, 1.0)
        self.shift = orthogonal_linear(hidden_size, hidden_size, 1.0)
        self.head = value_head(hidden_size)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        of_state = F.relu(self.state(state)).unsqueeze(-2)  # [..., 1, H], once per step
        of_obs = F.relu(self.observation(obs))
        modulated = logistic(self.scale(of_obs)) * of_state + self.shift(of_obs) + of_obs
        values: Tensor = self.head(standardized(modulated))
        return values.squeeze(-1)


class DualPathCritic(Critic):
    """Centralised critic of two paths: the state as MAPPO's sees it, and the state gated by what the agent observes.

    h_s = relu(W_s state) · h_o = relu(W_o [obs, id])
    h = relu(W_d [state, id]) + σ(W_g h_o) ⊙ h_s · V = w · relu(W h)

    Args:
        state_dim: size of the global state.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_size: H, width of every layer.
    """

    def __init__(self, state_dim: int, obs_dim: int, n_agents: int, hidden_size: int = 256) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size)
        self.direct = AgentLinear(state_dim, n_agents, hidden_size)
        self.state = orthogonal_linear(state_dim, hidden_size, RELU_GAIN)
        self.observation = AgentLinear(obs_dim, n_agents, hidden_size)
        self.gate = orthogonal_linear(hidden_size, hidden_size, 1.0)
        self.head = value_head(hidden_size)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        shared = state.unsqueeze(-2)
        of_obs = F.relu(self.observation(obs))
        gated = logistic(self.gate(of_obs)) * F.relu(self.state(shared))
        values: Tensor = self.head(F.relu(self.direct(shared)) + gated)
        return values.squeeze(-1)


class AttentionCritic(Critic):
    """Centralised critic in which the agents attend to each other (Vaswani et al. 2017, arXiv:1706.03762).

    One token per agent, conditioned on the state by adding the state's embedding to each; one pre-norm multi-head block
    with its residual connection; a head:

    x = relu(W_o [obs, id] + W_s state) · h = x + W_p MultiHead(LayerNorm(x)) · V = w · relu(W LayerNorm(h))

    Args:
        state_dim: size of the global state.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_size: H, width of every layer.
        n_heads: attention heads, each H / n_heads wide.
    """

    def __init__(self, state_dim: int, obs_dim: int, n_agents: int, hidden_size: int = 256, n_heads: int = 4) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size, n_heads=n_heads)
        if hidden_size % n_heads != 0:
            raise ValueError(f"hidden_size must be a multiple of n_heads ({n_heads}), got {hidden_size}")
        self.n_heads = n_heads
        self.embedding = AgentLinear(state_dim + obs_dim, n_agents, hidden_size)
        self.query, self.key, self.value, self.projection = (
            orthogonal_linear(hidden_size, hidden_size, 1.0) for _ in range(4)
        )
        self.key.register_parameter("bias", None)  # it would cancel in the softmax, and Adam make steps of rounding
        self.head = value_head(hidden_size)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        tokens = F.relu(self.embedding(state.unsqueeze(-2), obs))
        normed = standardized(tokens)
        query, key, value = (self._by_head(layer(normed)) for layer in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(-3, -2).reshape(tokens.shape)
        values: Tensor = self.head(standardized(tokens + self.projection(attended)))
        return values.squeeze(-1)

    def _by_head(self, x: Tensor) -> Tensor:
        """[..., N, H] → [M, heads, N, H / heads]; torch's fast attention takes one leading dimension."""
        return x.reshape(-1, x.shape[-2], self.n_heads, x.shape[-1] // self.n_heads).transpose(-3, -2)


class EPyMARLCritic(Critic):
    """A critic class written for EPyMARL (Papoudakis et al. 2021, arXiv:2006.07869), unchanged.

    The file or module that ``source`` names is executed when the critic is built, with all the rights of this process:
    name only code that you trust. Its class is called with EPyMARL's ``(scheme, args)`` and must have
    ``output_type == "v"``; that and the shape of its values are checked on zeros at once.

    Steps come here without their episode, so M of them are shown to the class as B = M episodes of T = 1 step. A class
    that remembers earlier steps therefore finds none.

    Args:
        state_dim: size of the global state, ``scheme["state"]["vshape"]``.
        obs_dim: size of an agent's observation, ``scheme["obs"]["vshape"]``.
        n_agents: number of agents, ``args.n_agents``.
        source: ``path/to/file.py:ClassName`` or ``package.module:ClassName``.
        n_actions: ``args.n_actions``, for classes that want to know it; no input here depends on it.
        hidden_size: ``args.hidden_dim``.
        obs_individual_obs: ``args.obs_individual_obs``: the class shall add the agent's own observation to its input.
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        n_agents: int,
        source: str,
        n_actions: int = 1,
        hidden_size: int = 256,
        obs_individual_obs: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, n_actions=n_actions, hidden_size=hidden_size)
        self.critic = build_critic(source, state_dim, obs_dim, n_agents, n_actions, hidden_size, obs_individual_obs)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        *rows, n_agents, obs_dim = obs.shape
        batch = Episodes(state.reshape(-1, 1, state.shape[-1]), obs.reshape(-1, 1, n_agents, obs_dim))
        values: Tensor = self.critic(batch)
        return values.reshape(*rows, n_agents)


class TargetCritic(Critic):
    """A copy of a critic that follows it slowly, see ``soft_update``.

    Args:
        critic: whom to copy.
        tau: τ, in (0, 1]; MAPPO's target_critic_tau.
    """

    def __init__(self, critic: Critic, tau: float) -> None:
        super().__init__()
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"target_critic_tau must be in (0, 1], got {tau}")
        self.tau = tau
        self.critic = deepcopy(critic).requires_grad_(False)

    def follow(self, critic: Critic) -> None:
        """One step towards the critic as it is now."""
        soft_update(self.critic, critic, self.tau)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        values: Tensor = self.critic(state, obs)
        return values


def value_head(hidden_size: int) -> nn.Sequential:
    """[..., H] → [..., 1]: w · relu(W h)."""
    hidden = orthogonal_linear(hidden_size, hidden_size, RELU_GAIN)
    return nn.Sequential(hidden, nn.ReLU(), orthogonal_linear(hidden_size, 1, 1.0))


def evaluate_critic(critic: Critic, batch: EpisodeBatch) -> Tensor:
    """Values [B, T+1, N] in normalised units, of every step and each episode's end; padding costs nothing and is 0."""
    n_slots = batch.mask.shape[1] + 1
    seen = torch.arange(n_slots, device=batch.mask.device) <= batch.lengths.unsqueeze(-1)
    values: Tensor = critic(batch.state[seen], batch.obs[seen])
    return values.new_zeros(*seen.shape, values.shape[-1]).masked_scatter(seen.unsqueeze(-1), values)
