"""Networks that see units instead of a row of numbers: the same weights for every enemy and for every ally.

They need the names of what is seen (``Layout``), which ``arrange`` tells them. Their weights do not depend on how many
units there are, so what has learned one scenario can play another one whose units have the same features.

Letters: M steps, R rows, N agents, O observation size, S state size, A actions, K units of one kind, F features of a
unit, W width of a unit's embedding, H hidden size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amal.battle.battlefield import MOVE_ACTIONS
from amal.networks.critics import Critic
from amal.networks.layers import RELU_GAIN, few_outputs, orthogonal_linear, standardized
from amal.networks.policies import POLICY_GAIN, Policy
from amal.runtime.argument_checks import check_at_least
from amal.types import Layout

LAST_ACTION = ".last_action"  # in the names of a state's features


def columns_of(names: Sequence[str], kind: str) -> Tensor:
    """Where the features of the units of a kind are, [K, F] int64: of 'ally0', 'ally1', … or of 'enemy0', … Without the
    allies' last actions.

    Args:
        names: of all features in order.
        kind: 'ally' or 'enemy'.
    """
    units: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        unit = name.partition(".")[0]
        if unit.rstrip("0123456789") == kind and unit != kind and LAST_ACTION not in name:
            units.setdefault(unit, []).append(column)
    return torch.tensor(list(units.values()), dtype=torch.int64)


def of_units(x: Tensor, columns: Tensor) -> Tensor:
    """[M, X] and columns [K, F] → [M, K, F]."""
    return x.index_select(1, columns.flatten()).view(len(x), *columns.shape)


def pooled(embeddings: Tensor) -> Tensor:
    """Mean and maximum over the units, whatever their order: [M, K, W] → [M, 2W]."""
    return torch.cat([embeddings.mean(dim=1), embeddings.amax(dim=1)], dim=-1)


def checked(layout: Layout | None, network: nn.Module, view: str, size: int) -> Layout:
    """The layout. Raises ValueError for a back end that has none, and for one of another size.

    Args:
        layout: of the battle.
        network: that needs it.
        view: 'obs' or 'state'.
        size: of that view.
    """
    name = type(network).__name__
    if layout is None:
        raise ValueError(f"{name} needs the names of what is seen, which only the embedded simulator's battles have")
    if len(getattr(layout, view)) != size:
        raise ValueError(f"{name}: layout.{view} has {len(getattr(layout, view))} names for {size} numbers")
    return layout


def activated(x: Tensor) -> Tensor:
    """LayerNorm(relu(x)) over the last dimension.

    A few features of a unit, spread over an embedding by an orthogonal layer, are small numbers, and so are a policy's
    logits of them: without the normalisation Adam's first steps change the policy several times less than those of an
    ``MLPPolicy``.
    """
    return standardized(F.relu(x))


class Scorer(nn.Module):
    """One number per unit from its embedding and what is known of all: v · LayerNorm(relu(A e_k + B h)).

    Args:
        embedding_size: W.
        hidden_size: H.
        gain: of the last layer's orthogonal initialisation.
    """

    def __init__(self, embedding_size: int, hidden_size: int, gain: float) -> None:
        super().__init__()
        self.own = orthogonal_linear(embedding_size, hidden_size, RELU_GAIN)
        self.common = orthogonal_linear(hidden_size, hidden_size, RELU_GAIN)
        self.last = orthogonal_linear(hidden_size, 1, gain)

    def forward(self, embeddings: Tensor, hidden: Tensor) -> Tensor:
        """[M, K, W] and [M, H] → [M, K]."""
        joined = activated(self.own(embeddings) + self.common(hidden).unsqueeze(1))
        return few_outputs(self.last, joined.flatten(0, 1)).view(embeddings.shape[:2])


class EntityPolicy(Policy):
    """Feed-forward policy whose logits follow the units: swap two enemies, and the logits of attacking them swap.

    e_k = φ(W_e x_k) of every enemy, a_k = φ(W_a x_k) of every other ally, o = φ(W_o x_own), φ = LayerNorm ∘ relu
    h = φ(W_2 φ(W_1 (o ⊕ mean e ⊕ max e ⊕ mean a ⊕ max a)))
    Logits of no-op, stop and the directions: W h. Logit of target k: v · φ(A e_k + B h); a healer's targets are the
    allies, with a_k and weights of their own.

    As in Hao et al. 2023 (arXiv:2203.05285) the order of allies and enemies does not matter and an attack is judged by
    its enemy's features; their hypernetworks are not here. There is no agent id: agents that see the same act alike.

    Args:
        obs_dim: size of an agent's observation.
        n_agents: number of agents.
        n_actions: number of actions.
        hidden_size: H, width of the two layers of the MLP.
        embedding_size: W, width of a unit's embedding.
    """

    recurrent = False
    enemies: Tensor  # [K, F], columns of the observation
    allies: Tensor
    own: Tensor  # [F]
    heals: Tensor  # [F], columns that are 1 of a healer
    targets: Tensor  # [N, A - 6], which of the other allies each agent's target is; K for none of them

    def __init__(
        self, obs_dim: int, n_agents: int, n_actions: int, hidden_size: int = 128, embedding_size: int = 64
    ) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size, embedding_size=embedding_size)
        self.obs_dim, self.n_agents, self.n_actions = obs_dim, n_agents, n_actions
        self.hidden_size, self.embedding_size = hidden_size, embedding_size

    def arrange(self, layout: Layout | None, agents: Sequence[int]) -> None:
        layout = checked(layout, self, "obs", self.obs_dim)
        names, healers = layout.obs, layout.healers
        enemies, allies = columns_of(names, "enemy"), columns_of(names, "ally")
        taken = {*enemies.flatten().tolist(), *allies.flatten().tolist()}
        own = [column for column in range(len(names)) if column not in taken]
        heals = [column for column in own if names[column] in {f"own.is_{name}" for name in healers}]
        slots, n_others = range(self.n_actions - MOVE_ACTIONS), len(allies)
        others = [[j - (j > agent) if j != agent and j <= n_others else n_others for j in slots] for agent in agents]
        columns = {"enemies": enemies, "allies": allies, "own": torch.tensor(own)}
        columns |= {"heals": torch.tensor(heals, dtype=torch.int64), "targets": torch.tensor(others)}
        for name, tensor in columns.items():
            self.register_buffer(name, tensor, persistent=False)
        width, hidden = self.embedding_size, self.hidden_size
        self.of_enemy = orthogonal_linear(enemies.shape[1], width, RELU_GAIN)
        self.of_ally = orthogonal_linear(allies.shape[1], width, RELU_GAIN) if n_others else None
        self.of_own = orthogonal_linear(len(own), width, RELU_GAIN)
        self.first = orthogonal_linear(width * (5 if n_others else 3), hidden, RELU_GAIN)
        self.second = orthogonal_linear(hidden, hidden, RELU_GAIN)
        self.moves = orthogonal_linear(hidden, MOVE_ACTIONS, POLICY_GAIN)
        self.attack = Scorer(width, hidden, POLICY_GAIN)
        self.heal = Scorer(width, hidden, POLICY_GAIN) if heals and n_others else None

    def initial_hidden(self, batch_size: int) -> Tensor:
        return self.moves.weight.new_empty(batch_size, self.n_agents, 0)

    def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        agents = torch.arange(self.n_agents, device=obs.device).expand(obs.shape[:-1]).flatten()
        return self._logits(obs.flatten(0, -2), agents).view(*obs.shape[:-1], self.n_actions), hidden

    def at_rows(self, obs: Tensor, rows: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        return self._logits(obs.flatten(0, 1).index_select(0, rows), rows % self.n_agents)

    def _logits(self, obs: Tensor, agents: Tensor) -> Tensor:
        """[R, A] of what agents [R] see, [R, O]."""
        enemies = activated(self.of_enemy(of_units(obs, self.enemies)))
        parts = [activated(self.of_own(obs.index_select(1, self.own))), pooled(enemies)]
        if self.of_ally is not None:
            allies = activated(self.of_ally(of_units(obs, self.allies)))
            parts.append(pooled(allies))
        hidden = activated(self.second(activated(self.first(torch.cat(parts, dim=-1)))))
        n_targets = self.n_actions - MOVE_ACTIONS
        targets = F.pad(self.attack(enemies, hidden), (0, n_targets - enemies.shape[1]))
        if self.heal is not None:
            to_heal = F.pad(self.heal(allies, hidden), (0, 1)).gather(1, self.targets.index_select(0, agents))
            heals = obs.index_select(1, self.heals).sum(dim=1, keepdim=True) > 0.5
            targets = torch.where(heals, to_heal, targets)
        return torch.cat([few_outputs(self.moves, hidden), targets], dim=-1)


class EntityCritic(Critic):
    """Centralised critic on the state's units: swap two enemies, and nothing changes; swap two agents, and their values
    swap.

    e_k = relu(W_e x_k) of every enemy, a_i = relu(W_a x_i) of every ally · V_i = w · relu(W relu(A a_i + B p)) with p
    the means and maxima of both. An ally's features are its own ones, its last action if that had no target, whether it
    had one, and how many healers had it as theirs; an enemy's also how many had it as their target, as shares of the
    team.

    Args:
        state_dim: size of the global state.
        obs_dim: size of an agent's observation, which this critic does not see.
        n_agents: number of agents.
        hidden_size: H.
        embedding_size: W, width of a unit's embedding.
    """

    enemies: Tensor  # [K, F], columns of the state
    allies: Tensor
    actions: Tensor  # [N, A]
    heals: Tensor  # [F], entries of an ally's features that are 1 of a healer

    def __init__(
        self, state_dim: int, obs_dim: int, n_agents: int, hidden_size: int = 128, embedding_size: int = 64
    ) -> None:
        super().__init__()
        check_at_least(1, hidden_size=hidden_size, embedding_size=embedding_size)
        self.state_dim, self.n_agents = state_dim, n_agents
        self.hidden_size, self.embedding_size = hidden_size, embedding_size

    def arrange(self, layout: Layout | None) -> None:
        layout = checked(layout, self, "state", self.state_dim)
        names, types = layout.state, {f"is_{name}" for name in layout.healers}
        allies, enemies = columns_of(names, "ally"), columns_of(names, "enemy")
        actions = [column for column, name in enumerate(names) if LAST_ACTION in name]
        features = [names[column].partition(".")[2] for column in allies[0].tolist()]
        heals = [entry for entry, name in enumerate(features) if name in types]
        columns = {"enemies": enemies, "allies": allies, "actions": torch.tensor(actions).view(self.n_agents, -1)}
        columns["heals"] = torch.tensor(heals, dtype=torch.int64)
        for name, tensor in columns.items():
            self.register_buffer(name, tensor, persistent=False)
        width, hidden = self.embedding_size, self.hidden_size
        self.of_enemy = orthogonal_linear(enemies.shape[1] + 1, width, RELU_GAIN)
        self.of_ally = orthogonal_linear(allies.shape[1] + MOVE_ACTIONS + 2, width, RELU_GAIN)
        self.agent = orthogonal_linear(width, hidden, RELU_GAIN)
        self.team = orthogonal_linear(4 * width, hidden, RELU_GAIN)
        self.second = orthogonal_linear(hidden, hidden, RELU_GAIN)
        self.last = orthogonal_linear(hidden, 1, 1.0)

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        steps = state.reshape(-1, state.shape[-1])
        allies, enemies = of_units(steps, self.allies), of_units(steps, self.enemies)
        untargeted, targets = of_units(steps, self.actions).tensor_split([MOVE_ACTIONS], dim=-1)
        heals = allies.index_select(2, self.heals).sum(dim=-1, keepdim=True)  # [M, N, 1]
        # where a target's number is beyond the units of a side, nobody has it
        attacked, healed = (
            F.pad((targets * weight).sum(dim=1) / self.n_agents, (0, count - targets.shape[-1])).unsqueeze(-1)
            for weight, count in ((1.0 - heals, enemies.shape[1]), (heals, self.n_agents))
        )
        has_target = targets.sum(dim=-1, keepdim=True)
        of_allies = F.relu(self.of_ally(torch.cat([allies, untargeted, has_target, healed], dim=-1)))
        of_enemies = F.relu(self.of_enemy(torch.cat([enemies, attacked], dim=-1)))
        team = self.team(torch.cat([pooled(of_allies), pooled(of_enemies)], dim=-1))
        hidden = F.relu(self.second(F.relu(self.agent(of_allies) + team.unsqueeze(1)))).flatten(0, 1)
        return few_outputs(self.last, hidden).view(*state.shape[:-1], self.n_agents)
