"""Value decomposition: off-policy Q-learning in which the team's value is a function of its agents' values.

Letters: B episodes, T time, N agents, O observation size, A actions, H hidden state, L rows: living agents in steps.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from amal.algorithms.base import Algorithm, averages
from amal.algorithms.minibatches import packed_lives, rows_of
from amal.networks.mixers import Mixer, QMIXMixer, VDNMixer
from amal.networks.policies import MLPPolicy, Policy
from amal.networks.shape_checks import check_mixer, check_policy
from amal.ops.action_values import annealed_epsilon, available_values, double_q_values, epsilon_greedy
from amal.ops.losses import at_actions, masked_mean
from amal.ops.returns import lambda_returns
from amal.ops.target_networks import soft_update
from amal.replay import EpisodeReplay, ReplayedEpisodes
from amal.runtime.argument_checks import check_at_least, check_positive, check_share
from amal.runtime.distributed import processes
from amal.runtime.random_streams import stream_seed
from amal.types import ActionScores, EpisodeBatch, Layout, alive_agents


class TeamValue(nn.Module):
    """The values of the agents' actions and their mixer, which learn together.

    Args:
        policy: whose logits are read as values of actions.
        mixer: of the values.
    """

    def __init__(self, policy: Policy, mixer: Mixer) -> None:
        super().__init__()
        self.policy, self.mixer = policy, mixer

    def of_actions(self, episodes: ReplayedEpisodes, alive: Tensor) -> Tensor:
        """Values [L, A] of all actions of the living agents, of all slots in which anything was seen.

        Args:
            episodes: B of them.
            alive: [B, T+1, N], False after an episode's end.

        Returns:
            In the order of ``alive``'s entries.
        """
        seen = episodes.seen
        obs = episodes.obs[seen]
        wanted = rows_of(alive[seen])
        if not self.policy.recurrent:
            return self.policy.at_rows(obs, wanted)
        rows, batch_sizes = packed_lives(seen, alive)
        values = self.policy.at_rows(obs, rows, batch_sizes)
        by_row = values.new_zeros(obs.shape[0] * obs.shape[1], values.shape[1]).index_copy(0, rows, values)
        return by_row.index_select(0, wanted)

    def of_team(self, episodes: ReplayedEpisodes, alive: Tensor, values: Tensor) -> Tensor:
        """Q_tot [B, T+1] of what living agents are worth, [L]; 0 after an episode's end."""
        seen = episodes.seen
        by_agent = values.new_zeros(alive.shape).masked_scatter(alive, values)[seen]
        totals: Tensor = self.mixer(by_agent, episodes.state[seen])
        return totals.new_zeros(seen.shape).masked_scatter(seen, totals)


class ValueDecomposition(Algorithm):
    """Double Q-learning of Q_tot, a mixture of the agents' values, from a replay of whole episodes.

    ``VDN`` and ``QMIX`` are this with their mixers. The dead count as 0 in the mixture and learn nothing.

    Where the defaults are from: the code of Hu et al. 2021 (arXiv:2102.03479, "fine-tuned QMIX") where it differs from
    the one of Rashid et al. 2018 (PyMARL): Adam instead of RMSProp, lr 1e-3 instead of 5e-4, λ 0.6 instead of 0. Both:
    γ 0.99, gradient norm 10, ε from 1 to 0.05, 5,000 episodes of replay, a target network renewed every 200 episodes.
    Of Rashid et al.: 32 episodes per step (Hu et al.: 128) and a step per fresh episode (Hu et al.: per 4 to 8), for
    budgets here are a hundredth of theirs. Theirs anneal ε over 50,000 and 100,000 of 2 and 10 million steps; the same
    share of a small budget would be a few battles.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        mixer: class of the mixer.
        policy: class of the agents' network. Its logits are read as values of actions; a policy's last layer is small,
            so they start near 0.
        lr: learning rate of Adam.
        gamma: discount factor.
        td_lambda: lambda of the TD(lambda) targets, 0 for one-step targets. The returns are not corrected for the
            actions that the agents would not take now.
        epsilon_start: share of random actions at first.
        epsilon_end: share of random actions later.
        epsilon_share: share of the budget over which ε falls from ``epsilon_start`` to ``epsilon_end``.
        replay_episodes: episodes kept.
        batch_size: episodes of an optimizer step; learning begins when so many are stored.
        episodes_per_step: fresh episodes per optimizer step, in each process.
        target_update_episodes: episodes between two hard updates of the target network.
        target_tau: rate of soft (Polyak) updates at every optimizer step, instead of hard ones.
        max_grad_norm: gradients are scaled down to this norm.
        layout: names of what is seen; comes from the scenario.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        mixer: Callable[[int, int], Mixer] = QMIXMixer,
        policy: Callable[[int, int, int], Policy] = MLPPolicy,
        lr: float = 1e-3,
        gamma: float = 0.99,
        td_lambda: float = 0.6,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_share: float = 0.2,
        replay_episodes: int = 5000,
        batch_size: int = 32,
        episodes_per_step: int = 1,
        target_update_episodes: int = 200,
        target_tau: float | None = None,
        max_grad_norm: float = 10.0,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim)
        check_positive(lr=lr, max_grad_norm=max_grad_norm)
        check_share(gamma=gamma, td_lambda=td_lambda)
        check_share(epsilon_start=epsilon_start, epsilon_end=epsilon_end, epsilon_share=epsilon_share)
        check_at_least(1, replay_episodes=replay_episodes, batch_size=batch_size, episodes_per_step=episodes_per_step)
        check_at_least(1, target_update_episodes=target_update_episodes)
        if batch_size > replay_episodes:
            raise ValueError(f"batch_size must be at most replay_episodes ({replay_episodes}), got {batch_size}")
        if target_tau is not None and not 0.0 < target_tau <= 1.0:
            raise ValueError(f"target_tau must be in (0, 1], got {target_tau}")

        self.lr, self.max_grad_norm = lr, max_grad_norm
        self.gamma, self.td_lambda = gamma, td_lambda
        self.epsilon_start, self.epsilon_end, self.epsilon_share = epsilon_start, epsilon_end, epsilon_share
        self.batch_size, self.episodes_per_step = batch_size, episodes_per_step
        self.target_update_episodes, self.target_tau = target_update_episodes, target_tau

        self.team = TeamValue(policy(obs_dim, n_agents, n_actions), mixer(state_dim, n_agents))
        self.team.policy.arrange(layout, range(n_agents))
        check_policy(self.team.policy, obs_dim, n_agents, n_actions)
        check_mixer(self.team.mixer, state_dim, n_agents)
        self.target = deepcopy(self.team).requires_grad_(False)
        seed = stream_seed(torch.initial_seed(), "minibatches")
        self.replay = EpisodeReplay(replay_episodes, n_agents, obs_dim, state_dim, n_actions, seed)
        self.episodes_due = 0  # fresh ones that no optimizer step has followed yet
        self.target_age = 0  # episodes of all processes since the target network was renewed

    # --- playing ------------------------------------------------------------------------------------------------------

    def initial_hidden(self, num_battles: int) -> Tensor:
        return self.team.policy.initial_hidden(num_battles)

    def act(
        self,
        obs: Tensor,
        available_actions: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[Tensor, None, Tensor]:
        values, hidden = self.team.policy.step(obs, hidden)
        if generator is None:
            return available_values(values, available_actions).argmax(dim=-1), None, hidden
        return epsilon_greedy(values, available_actions, self.epsilon(progress), generator), None, hidden

    def epsilon(self, progress: float) -> float:
        """Share of random actions at that progress."""
        return annealed_epsilon(progress, self.epsilon_start, self.epsilon_end, self.epsilon_share)

    def action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores:
        """The agents' values [E, N, A]; arguments as of ``act``."""
        values, _ = self.team.policy.step(obs, hidden)
        return ActionScores("value", available_values(values, available_actions))

    # --- learning -----------------------------------------------------------------------------------------------------

    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """Stores the episodes and makes the optimizer steps that they are due."""
        self.replay.add(batch)
        self.episodes_due += len(batch.rewards)
        steps = []
        if len(self.replay) >= self.batch_size:
            n_steps, self.episodes_due = divmod(self.episodes_due, self.episodes_per_step)
            steps = [self.take_step() for _ in range(n_steps)]
        self.renew_target(len(batch.rewards) * processes())
        counts = {"policy_steps": len(steps), "replay_episodes": len(self.replay), "epsilon": self.epsilon(progress)}
        return {f"train/{name}": torch.tensor(float(value)) for name, value in counts.items()} | averages(steps)

    def take_step(self) -> dict[str, Tensor]:
        """One optimizer step on replayed episodes; its metrics."""
        episodes = self.replay.sample(self.batch_size).to(self.device)
        loss, metrics = self.value_loss(episodes)
        norm = self.descend(self.all_optimizers()[0], self.team, loss, self.max_grad_norm)
        if self.target_tau is not None:
            soft_update(self.target, self.team, self.target_tau)
        return {"train/value_loss": loss.detach(), "train/value_grad_norm": norm, **metrics}

    def value_loss(self, episodes: ReplayedEpisodes) -> tuple[Tensor, dict[str, Tensor]]:
        """½ (Q_tot − target)², mean over the steps that happened; and metrics."""
        mask = episodes.mask
        alive = episodes.seen.unsqueeze(-1) & alive_agents(episodes.available_actions)
        values = self.team.of_actions(episodes, alive)
        last = torch.zeros_like(episodes.actions[:, :1])  # no action follows what is seen at the end
        actions = torch.cat([episodes.actions, last], dim=1)[alive]
        chosen = at_actions(values, actions)
        predicted = self.team.of_team(episodes, alive, chosen)[:, :-1]
        targets = self.targets(episodes, alive, values.detach())
        loss = masked_mean(0.5 * (predicted - targets).square(), mask)
        with torch.no_grad():
            metrics = {"train/value": masked_mean(predicted, mask), "train/target": masked_mean(targets, mask)}
        return loss, metrics

    @torch.no_grad()
    def targets(self, episodes: ReplayedEpisodes, alive: Tensor, values: Tensor) -> Tensor:
        """TD(λ) targets [B, T] of Q_tot.

        Args:
            episodes: B of them.
            alive: [B, T+1, N].
            values: [L, A], of the network that learns.
        """
        available = episodes.available_actions[alive]
        best = double_q_values(values, self.target.of_actions(episodes, alive), available)
        totals = self.target.of_team(episodes, alive, best).unsqueeze(-1)
        steps = (episodes.rewards, totals, episodes.terminated, episodes.mask)
        return lambda_returns(*steps, self.gamma, self.td_lambda).squeeze(-1)

    def renew_target(self, episodes: int) -> None:
        """After so many more episodes of all processes; nothing where the target follows in every step."""
        self.target_age += episodes
        if self.target_tau is None and self.target_age >= self.target_update_episodes:
            soft_update(self.target, self.team, 1.0)
            self.target_age = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.team.parameters(), lr=self.lr, fused=True)

    def learning_state(self) -> Any:
        counts = {"episodes_due": self.episodes_due, "target_age": self.target_age}
        return {"replay": self.replay.state_dict(), **counts}

    def load_learning_state(self, state: Any) -> None:
        self.replay.load_state_dict(state["replay"])
        self.episodes_due, self.target_age = state["episodes_due"], state["target_age"]


class VDN(ValueDecomposition):
    """Value-decomposition networks: Q_tot is the sum of the agents' values (Sunehag et al. 2018, arXiv:1706.05296).

    Double Q-learning, TD(λ) and the other defaults are as of ``ValueDecomposition``; the paper has none of them.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state, which VDN does not see; comes from the scenario.
        learning: further arguments of ValueDecomposition.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int, **learning: Any) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, mixer=VDNMixer, **learning)


class QMIX(ValueDecomposition):
    """QMIX: a mixing network that is monotonic in every agent's value (Rashid et al. 2018, arXiv:1803.11485).

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        learning: further arguments of ValueDecomposition.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int, **learning: Any) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, **learning)
