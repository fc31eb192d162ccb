"""Policies: networks from the agents' observations to the logits of their actions.

Letters: B episodes, T time, N agents, O observation size, A actions, F features, H hidden state.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amal.networks.layers import AgentLinear, AgentMLP, LayerNorm, few_outputs, orthogonal_, orthogonal_linear
from amal.ops.recurrence import gated_recurrence
from amal.runtime.argument_checks import check_at_least, check_flag
from amal.types import Layout, PlainNetwork

POLICY_GAIN = 0.01
"""Gain of a policy's last layer: it starts near uniform (MAPPO, Yu et al. 2022, arXiv:2103.01955, table of common
hyper-parameters)."""


class Policy(nn.Module):
    """What a policy network offers. ``recurrent`` tells whether the hidden state carries anything."""

    recurrent: bool

    def arrange(self, layout: Layout | None, agents: Sequence[int]) -> None:
        """Called once, before anything else, with the names of an observation's features. By default they are ignored.

        Args:
            layout: names of the features; None if the back end has none.
            agents: numbers, in their team, of the agents that the policy plays.
        """

    @abstractmethod
    def initial_hidden(self, batch_size: int) -> Tensor:
        """[B, N, H], the hidden state at the start of an episode."""

    @abstractmethod
    def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of B battles for T steps.

        Args:
            obs: [B, T, N, O].
            hidden: [B, N, H], before the first step.

        Returns:
            Logits [B, T, N, A], and the hidden state [B, N, H] after the last step.
        """

    def step(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of B battles for one step, a sequence of one.

        Args:
            obs: [B, N, O].
            hidden: [B, N, H], before the step.

        Returns:
            Logits [B, N, A], and the hidden state [B, N, H] after the step.
        """
        logits, hidden = self(obs.unsqueeze(1), hidden)
        return logits.squeeze(1), hidden

    @abstractmethod
    def at_rows(self, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        """Logits [R, A] of single agents in single steps.

        Args:
            obs: [M, N, O].
            rows: [R] int64 into [M · N]. A recurrent policy needs whole lives of agents, arranged as the data of a
                ``torch.nn.utils.rnn.PackedSequence``: the first steps of all lives, longest life first, then the
                second steps, and so on.
            batch_sizes: [T, N] int64 on the CPU, for recurrent policies only: how many lives of each agent have a
                t-th step.
        """

    def plain_network(self) -> PlainNetwork | None:
        """The parameters as they are now, if they are all that ``forward`` needs; then a compiled rollout can play the
        policy."""
        return None


class MLPPolicy(Policy):
    """Feed-forward policy on observation ⊕ agent id, shared by the agents.

    Args:
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        n_actions: number of actions.
        hidden_sizes: width of each hidden layer.
        feature_norm: layer normalisation of the observation.
        layer_norm: layer normalisation after each ReLU. The authors of MAPPO (Yu et al. 2022,
            arXiv:2103.01955) have both.
    """

    recurrent = False

    def __init__(
        self,
        obs_dim: int,
        n_agents: int,
        n_actions: int,
        hidden_sizes: Sequence[int] = (256, 256),
        feature_norm: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_flag(feature_norm=feature_norm, layer_norm=layer_norm)
        self.n_agents = n_agents
        self.layers = AgentMLP(obs_dim, n_agents, hidden_sizes, n_actions, POLICY_GAIN, feature_norm, layer_norm)
        self.has_norms = feature_norm or layer_norm

    def plain_network(self) -> PlainNetwork | None:
        """Without norms, in single precision and on the CPU."""
        first, middle, last = self.layers.first, self.layers.middle, self.layers.last
        is_usual = last.weight.dtype == torch.float32 and last.weight.device.type == "cpu"
        if type(self) is not MLPPolicy or self.has_norms or not is_usual:
            return None
        of_features, of_ids = first.weight.detach().split([first.in_features, self.n_agents], dim=1)
        return PlainNetwork(
            first=of_features,
            agents=of_ids.t() + first.bias.detach(),
            middle=[(layer.weight.detach(), layer.bias.detach()) for layer in cast(Iterable[nn.Linear], middle)],
            last=(last.weight.detach(), last.bias.detach()),
        )

    def initial_hidden(self, batch_size: int) -> Tensor:
        return next(self.parameters()).new_empty(batch_size, self.n_agents, 0)

    def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(obs), hidden

    def at_rows(self, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(obs, rows=rows)
        return logits


class GRUPolicy(Policy):
    """Recurrent policy on observation ⊕ agent id, shared by the agents: linear, ReLU, GRU, linear.

    Args:
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        n_actions: number of actions.
        hidden_size: width of the first layer and of the hidden state.
        feature_norm: layer normalisation of the observation.
        layer_norm: layer normalisation after the ReLU, and of what the GRU puts out; its hidden state stays as it is.
            The authors of MAPPO (Yu et al. 2022, arXiv:2103.01955) have both.
    """

    recurrent = True

    def __init__(
        self,
        obs_dim: int,
        n_agents: int,
        n_actions: int,
        hidden_size: int = 128,
        feature_norm: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size)
        check_flag(feature_norm=feature_norm, layer_norm=layer_norm)
        self.n_agents = n_agents
        self.hidden_size = hidden_size
        self.encoder = AgentLinear(obs_dim, n_agents, hidden_size, feature_norm=feature_norm)
        self.gru = nn.GRUCell(hidden_size, hidden_size)  # its parameters; all steps together are faster than its calls
        for name, parameter in self.gru.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.data.chunk(3):  # stacked, they would share one orthonormal basis
                    orthogonal_(gate)
        self.head = orthogonal_linear(hidden_size, n_actions, POLICY_GAIN)
        self.input_norm, self.output_norm = (LayerNorm(hidden_size) if layer_norm else nn.Identity() for _ in range(2))

    def initial_hidden(self, batch_size: int) -> Tensor:
        return next(self.parameters()).new_zeros(batch_size, self.n_agents, self.hidden_size)

    def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        battles, n_steps = obs.shape[:2]
        features = self.encoder(obs.transpose(0, 1)).flatten(0, -2)  # time first, as the GRU walks it
        outputs = self._walk(features, hidden.flatten(0, 1), [battles * self.n_agents] * n_steps)
        logits = few_outputs(self.head, self.output_norm(outputs)).view(n_steps, battles, self.n_agents, -1)
        return logits.transpose(0, 1), outputs.view(n_steps, *hidden.shape)[-1]

    def at_rows(self, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        assert batch_sizes is not None, "a recurrent policy needs to know which rows follow each other"
        sizes = [size for size in batch_sizes.sum(dim=1).tolist() if size > 0]
        features = self.encoder(obs, rows=rows)
        outputs = self._walk(features, features.new_zeros(sizes[0], self.hidden_size), sizes)
        return few_outputs(self.head, self.output_norm(outputs))

    def _walk(self, features: Tensor, hidden: Tensor, running: list[int]) -> Tensor:
        """Hidden states [L, H] after each of L steps, arranged as ``gated_recurrence`` wants them."""
        encoded = self.input_norm(F.relu(features, inplace=True))
        inputs = F.linear(encoded, self.gru.weight_ih, self.gru.bias_ih)
        return gated_recurrence(inputs, hidden, self.gru.weight_hh, self.gru.bias_hh, running)


class IndependentPolicies(Policy):
    """One policy of its own for each agent, nothing shared.

    Where one agent learns at a time, use ``at_rows_of``: ``at_rows`` gives the others gradients of zero, and an
    optimizer with momentum still moves them.

    Args:
        factory: builds a policy from (obs_dim, n_agents, n_actions); called with one agent.
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        n_actions: number of actions.
    """

    def __init__(self, factory: Callable[[int, int, int], Policy], obs_dim: int, n_agents: int, n_actions: int) -> None:
        super().__init__()
        policies = [factory(obs_dim, 1, n_actions) for _ in range(n_agents)]
        self.recurrent = policies[0].recurrent
        self.policies = nn.ModuleList(policies)

    def __getitem__(self, agent: int) -> Policy:
        """The policy of one agent."""
        return cast(Policy, self.policies[agent])

    def arrange(self, layout: Layout | None, agents: Sequence[int]) -> None:
        for agent, policy in zip(agents, self.policies, strict=True):
            cast(Policy, policy).arrange(layout, [agent])

    def at_rows_of(self, agent: int, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        """``at_rows`` of one agent, by its policy alone; all rows are its own, see ``Minibatch.of_agent``."""
        sizes = None if batch_sizes is None else batch_sizes[:, agent : agent + 1]
        return self[agent].at_rows(obs[:, agent : agent + 1], rows // len(self.policies), sizes)

    def initial_hidden(self, batch_size: int) -> Tensor:
        hiddens = [cast(Policy, policy).initial_hidden(batch_size) for policy in self.policies]
        return torch.cat(hiddens, dim=1)

    def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [policy(obs[:, :, i : i + 1], hidden[:, i : i + 1]) for i, policy in enumerate(self.policies)]
        logits, hiddens = zip(*outputs, strict=True)
        return torch.cat(logits, dim=2), torch.cat(hiddens, dim=1)

    def at_rows(self, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        if batch_sizes is None:  # the dead too, for how many live is known to the device only
            logits, _ = self.step(obs, self.initial_hidden(len(obs)))
            return logits.flatten(0, 1).index_select(0, rows)
        n_agents = len(self.policies)
        order = (rows % n_agents).argsort(stable=True)  # one agent after the other
        own_rows = (rows[order] // n_agents).split(batch_sizes.sum(dim=0).tolist())
        logits = torch.cat(
            [
                cast(Policy, policy).at_rows(obs[:, i : i + 1], own_rows[i], batch_sizes[:, i : i + 1])
                for i, policy in enumerate(self.policies)
                if len(own_rows[i]) > 0
            ]
        )
        return torch.empty_like(logits).index_copy(0, order, logits)
