"""Critics: networks from state and observations to one value per agent.

Letters: ``...`` any leading dimensions, N agents, O observation size, S state size.
"""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from amal.networks import AgentMLP


class Critic(nn.Module):
    """What a critic offers; built by a factory from (state_dim, obs_dim, n_agents)."""

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
    """

    def __init__(
        self,
        state_dim: int,
        obs_dim: int,
        n_agents: int,
        hidden_sizes: Sequence[int] = (256, 256),
        joint_obs: bool = False,
    ) -> None:
        super().__init__()
        self.joint_obs = joint_obs
        self.layers = AgentMLP(state_dim + obs_dim * joint_obs, n_agents, hidden_sizes, 1, output_gain=1.0)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        shared = state.unsqueeze(-2)  # one row per step: the agents share its product with the weight
        values: Tensor = self.layers(shared, obs) if self.joint_obs else self.layers(shared)
        return values.squeeze(-1)


class IPPOCritic(Critic):
    """Decentralised critic: MLP on the agent's own observation ⊕ agent id (de Witt et al. 2020, arXiv:2011.09533).

    Args:
        state_dim: size of the global state, which this critic does not see.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        hidden_sizes: width of each hidden layer.
    """

    def __init__(self, state_dim: int, obs_dim: int, n_agents: int, hidden_sizes: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.layers = AgentMLP(obs_dim, n_agents, hidden_sizes, 1, output_gain=1.0)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        values: Tensor = self.layers(obs)
        return values.squeeze(-1)
