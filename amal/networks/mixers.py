"""Mixers: from the values of the agents' actions to the value of the joint action.

Letters: ``...`` any leading dimensions, N agents, S state size, M mixing units.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amal.networks.layers import RELU_GAIN, few_outputs, orthogonal_linear
from amal.runtime.argument_checks import check_at_least


class Mixer(nn.Module):
    """What a mixer offers; built by a factory from (state_dim, n_agents).

    Q_tot must not fall when an agent's value rises. Then each agent that takes the best of its own actions takes its
    part in the best joint action.
    """

    @abstractmethod
    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """The value of the joint action, Q_tot.

        Args:
            values: [..., N], of each agent's action; 0 for the dead.
            state: [..., S].

        Returns:
            [...].
        """


class VDNMixer(Mixer):
    """Q_tot = Σ_i Q_i (VDN, Sunehag et al. 2018, arXiv:1706.05296, eq. 4); it has no parameters and ignores the state.

    Args:
        state_dim: size of the global state.
        n_agents: number of agents.
    """

    def __init__(self, state_dim: int, n_agents: int) -> None:
        super().__init__()

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        return values.sum(dim=-1)


class QMIXMixer(Mixer):
    """Monotonic mixing network whose weights hypernetworks make of the state (QMIX, Rashid et al. 2018,
    arXiv:1803.11485, figure 2 and eq. 5).

    h = ELU(Σ_i |W_1(s)|_i Q_i + b_1(s)) · Q_tot = Σ_m |w_2(s)|_m h_m + V(s)

    W_1 and w_2 come from MLPs with one hidden layer, V from another one, b_1 from a linear layer. The weights are not
    negative and ELU rises, so ∂Q_tot / ∂Q_i ≥ 0.

    Args:
        state_dim: size of the global state.
        n_agents: number of agents.
        embedding_size: M; 32 in Rashid et al. 2018 and in Hu et al. 2021.
        hypernet_size: width of the hidden layer that W_1 and w_2 come from; 64 in the code of both.
    """

    def __init__(self, state_dim: int, n_agents: int, embedding_size: int = 32, hypernet_size: int = 64) -> None:
        super().__init__()
        check_at_least(1, embedding_size=embedding_size, hypernet_size=hypernet_size)
        self.sizes = (hypernet_size, hypernet_size, embedding_size, embedding_size)
        # one product with the state for the hidden layers of W_1, w_2 and V, and for b_1
        parts = [orthogonal_linear(state_dim, size, RELU_GAIN) for size in self.sizes[:3]]
        parts.append(orthogonal_linear(state_dim, embedding_size, 1.0))
        self.of_state = nn.Linear(state_dim, sum(self.sizes))
        self.of_state.weight.data.copy_(torch.cat([part.weight.data for part in parts]))
        nn.init.zeros_(self.of_state.bias)
        self.first = orthogonal_linear(hypernet_size, n_agents * embedding_size, 1.0)
        self.second = orthogonal_linear(hypernet_size, embedding_size, 1.0)
        self.value = orthogonal_linear(embedding_size, 1, 1.0)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        n_agents = values.shape[-1]
        agents = values.reshape(-1, n_agents)
        of_first, of_second, of_value, bias = self.of_state(state.reshape(len(agents), -1)).split(self.sizes, dim=-1)
        first = self.first(F.relu(of_first)).abs().view(len(agents), n_agents, -1)
        mixed = (first * agents.unsqueeze(-1)).sum(dim=1) + bias
        # ELU; torch's own rounds by number of threads
        hidden = F.relu(mixed) + (mixed.clamp(max=0.0).exp() - 1.0)
        second = self.second(F.relu(of_second)).abs()
        total: Tensor = (second * hidden).sum(dim=-1) + few_outputs(self.value, F.relu(of_value)).squeeze(-1)
        return total.view(values.shape[:-1])
