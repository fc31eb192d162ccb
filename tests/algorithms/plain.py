"""Updates of MAPPO and AMAL redone from their definitions, an agent's step at a time, in double precision where it
matters. What they share with the project: the networks, the buffer, the streams, and the functions of AMAL's parts that
are recomputed in tests of their own (world model, information, imagination, evolution)."""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.amal.auxiliary_steps import imagine_steps
from amal.algorithms.mappo import MAPPO
from amal.networks.world_model_ensemble import open_loop_errors
from amal.networks.world_models import world_model_losses
from amal.ops.cem import CrossEntropyMethod
from amal.replay import REAL, AsymmetricReplayBuffer, Experience, RealExperience
from amal.runtime.random_streams import stream_seed
from amal.types import EpisodeBatch
from tests.algorithms.episodes import N_ACTIONS, N_AGENTS, OBS_DIM, STATE_DIM

Rows = list[tuple[int, int, int]]  # episode, step, agent


def defaults(algorithm: type[MAPPO]) -> dict[str, Any]:
    """The algorithm's own options, without those that it inherits, and their defaults."""
    arguments = inspect.signature(algorithm).parameters.values()
    return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}


class Running:
    """Mean and deviation of all batches seen, each counting 0.99 times as much as the next."""

    def __init__(self) -> None:
        self.moments: list[Tensor] = []  # of each batch: mean, mean square

    def take(self, x: Tensor) -> None:
        self.moments.append(torch.stack([x.double().mean(), x.double().square().mean()]))

    @property
    def mean_and_std(self) -> tuple[float, float]:
        if not self.moments:
            return 0.0, 1.0
        weights = [0.99**age for age in reversed(range(len(self.moments)))]
        mean, square = (sum(w * m for w, m in zip(weights, self.moments, strict=True)) / sum(weights)).tolist()
        return mean, math.sqrt(max(square - mean**2, 0.01))

    def normalize(self, x: Tensor) -> Tensor:
        mean, std = self.mean_and_std
        return (x - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        mean, std = self.mean_and_std
        return x * std + mean


def log_policy(logits: Tensor, available: Tensor) -> Tensor:
    masked = torch.where(available, logits, -1e30)
    return masked - torch.logsumexp(masked, dim=-1, keepdim=True)


def surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages).mean()


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std(correction=0)


def descend(network: nn.Module, optimizer: torch.optim.Optimizer, losses: Sequence[Tensor], longest: float) -> float:
    """One step down the sum of the losses; the norm of its gradient before it is scaled down."""
    gradient = torch.autograd.grad(sum(losses), list(network.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
    for parameter, g in zip(network.parameters(), gradient, strict=True):
        parameter.grad = g * min(1.0, longest / norm)
    optimizer.step()
    return norm


class PlainMAPPO:
    """What MAPPO should be after each update; ``options`` are the numbers that it was built with."""

    def __init__(self, module: MAPPO, **options: Any) -> None:
        self.options = SimpleNamespace(**{**defaults(MAPPO), **options})
        self.policy, self.critic = copy.deepcopy(module.policy), copy.deepcopy(module.critic)
        self.slow = copy.deepcopy(module.critic)
        networks = (self.policy, self.critic)
        self.adams = [torch.optim.Adam(network.parameters(), lr=0.0, eps=1e-5) for network in networks]
        self.value_statistics, self.reward_statistics = Running(), Running()
        self.stream = torch.Generator().manual_seed(stream_seed(torch.initial_seed(), "minibatches"))

    def update(self, batch: EpisodeBatch, bonus: Tensor | None = None) -> dict[str, float]:
        """``bonus`` [B, T] is paid to the policy beside the rewards."""
        lengths = batch.mask.sum(dim=1).tolist()
        happened = [(b, t, n) for b, length in enumerate(lengths) for t in range(length) for n in range(N_AGENTS)]
        living = [(b, t, n) for b, t, n in happened if not batch.available_actions[b, t, n, 0]]
        taught = happened  # what the critic learns from
        for adam in self.adams:
            adam.param_groups[0]["lr"] = self.options.lr * (1 - batch.progress)

        old, returns, advantages, fit = self.judged(batch, lengths, living, taught, bonus)
        metrics: dict[str, list[float]] = {"explained_variance": [fit]}
        parts = self.parts(batch, lengths)
        further = self.further_losses(len(parts))
        for k, part in enumerate(parts):
            rows, value_rows = ([row for row in wanted if row[:2] in part] for wanted in (living, taught))
            step = self.policy_step(batch, rows, advantages, further(k)) | self.critic_step(
                batch, value_rows, old, returns
            )
            for name, value in step.items():
                metrics.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in metrics.items()}

    def judged(
        self, batch: EpisodeBatch, lengths: list[int], living: Rows, taught: Rows, bonus: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Old values, normalised targets and standardised advantages, [B, T, N] each, and the explained variance."""
        o = self.options
        if o.target_critic_tau is None:
            self.slow.load_state_dict(self.critic.state_dict())
        else:
            for mine, its in zip(self.slow.parameters(), self.critic.parameters(), strict=True):
                mine.data = (1 - o.target_critic_tau) * mine.data + o.target_critic_tau * its.data
        rewards = batch.rewards.double()
        if o.standardise_rewards:
            self.reward_statistics.take(rewards[batch.mask])
            rewards = self.reward_statistics.normalize(rewards)
        with torch.no_grad():
            old, slow = (critic(batch.state, batch.obs).double() for critic in (self.critic, self.slow))
        values, slow = self.value_statistics.denormalize(old), self.value_statistics.denormalize(slow)
        returns, paid = torch.zeros_like(values[:, :-1]), torch.zeros_like(values[:, :-1])
        for b, t, n in [(b, t, n) for b, length in enumerate(lengths) for t in range(length) for n in range(N_AGENTS)]:
            ends = bool(batch.terminated[b].any())
            after = [*slow[b, : lengths[b], n].tolist(), 0.0 if ends else float(slow[b, lengths[b], n])]
            returns[b, t, n] = self.return_from(t, rewards[b, : lengths[b]].tolist(), after)
            if bonus is not None:
                scale = self.reward_statistics.mean_and_std[1]  # 1 where rewards are not standardised
                bonuses = [x / scale for x in bonus[b, : lengths[b]].tolist()]
                paid[b, t, n] = self.return_from(t, bonuses, [0.0] * len(after))
        advantages = torch.zeros_like(returns)
        advantages[at(living)] = standardized((returns + paid - values[:, :-1])[at(living)])
        errors, observed = (returns - values[:, :-1])[at(taught)], returns[at(taught)]
        fit = 1 - float(errors.var(correction=0) / observed.var(correction=0))
        self.value_statistics.take(observed)
        return old[:, :-1], self.value_statistics.normalize(returns), advantages, fit

    def return_from(self, t: int, rewards: list[float], values: list[float]) -> float:
        """Of the n-step returns from t, the n-th, or all of them weighted by (1 − λ) λ^(n − 1)."""
        o, most = self.options, len(rewards) - t

        def of(n: int) -> float:
            return sum(o.gamma**i * rewards[t + i] for i in range(n)) + o.gamma**n * values[t + n]

        if o.n_step_returns is not None:
            return of(min(o.n_step_returns, most))
        weights = [(1 - o.gae_lambda) * o.gae_lambda ** (n - 1) for n in range(1, most)]
        return sum(w * of(n) for n, w in enumerate(weights, start=1)) + o.gae_lambda ** (most - 1) * of(most)

    def parts(self, batch: EpisodeBatch, lengths: list[int]) -> list[set[tuple[int, int]]]:
        """The steps of each minibatch, (episode, step)."""
        steps = [(b, t) for b, length in enumerate(lengths) for t in range(length)]
        items = [[s for s in steps if s[0] == b] for b in range(len(lengths))]
        if not self.policy.recurrent:
            items = [[s] for s in steps]
        n = min(self.options.n_minibatch, len(lengths))
        orders = [torch.randperm(len(items), generator=self.stream) for _ in range(self.options.n_epochs)]
        return [{s for i in part.tolist() for s in items[i]} for order in orders for part in order.tensor_split(n)]

    def further_losses(self, n_minibatch: int) -> Callable[[int], list[Tensor]]:
        """What else the policy's k-th step goes down."""
        return lambda k: []

    def policy_step(
        self, batch: EpisodeBatch, rows: Rows, advantages: Tensor, further: list[Tensor]
    ) -> dict[str, float]:
        o = self.options
        logits = self.policy(batch.obs[:, :-1], self.policy.initial_hidden(len(batch.obs)))[0]
        log_probs = log_policy(logits[at(rows)], batch.available_actions[at(rows)])
        log_ratio = log_probs[range(len(rows)), batch.actions[at(rows)]] - batch.log_probs[at(rows)]
        gain = surrogate(log_ratio, advantages[at(rows)].float(), o.clip_param)
        entropy = -(log_probs.exp() * log_probs).nan_to_num().sum(dim=-1).mean()
        lacking = max(0.0, o.entropy_floor * (1.0 - batch.progress) - entropy.item())
        losses = [-gain, -(o.entropy_coef + lacking) * entropy, *further]
        norm = descend(self.policy, self.adams[0], losses, o.max_grad_norm)
        ratio = log_ratio.detach().double().exp()
        return {
            "policy_loss": -gain.item(),
            "entropy": entropy.item(),
            "approx_kl": float((ratio - 1 - ratio.log()).mean()),
            "clip_fraction": float(((ratio - 1).abs() > o.clip_param).double().mean()),
            "policy_grad_norm": norm,
        }

    def critic_step(self, batch: EpisodeBatch, rows: Rows, old: Tensor, targets: Tensor) -> dict[str, float]:
        o = self.options
        values = self.critic(batch.state[:, :-1], batch.obs[:, :-1])[at(rows)]
        before, goal = old[at(rows)].float(), targets[at(rows)].float()
        clipped = before + torch.clamp(values - before, -o.value_clip, o.value_clip)
        loss = torch.maximum(self.error(values - goal), self.error(clipped - goal)).mean()
        norm = descend(self.critic, self.adams[1], [loss], o.max_grad_norm)
        return {"value_loss": loss.item(), "critic_grad_norm": norm}

    def error(self, e: Tensor) -> Tensor:
        delta = self.options.huber_delta
        if self.options.value_loss == "mse":
            return e**2 / 2
        return torch.where(e.abs() <= delta, e**2 / 2, delta * (e.abs() - delta / 2))


def at(rows: Rows) -> tuple[Tensor, ...]:
    """An index of the rows into [B, T, N, …]."""
    return torch.tensor(rows).unbind(dim=1)


class PlainAMAL(PlainMAPPO):
    """The same of AMAL with all its parts, which is evolved before each update."""

    def __init__(self, module: AMAL, **options: Any) -> None:
        super().__init__(module, **{**defaults(AMAL), **options})
        o, seed = self.options, torch.initial_seed()
        self.world_model, self.averaged_model = copy.deepcopy(module.world_model), copy.deepcopy(module.world_model)
        self.model_steps = 0
        self.model_adam = torch.optim.Adam(self.world_model.parameters(), lr=o.world_model.learning_rate)
        self.estimator = copy.deepcopy(module.estimator)
        imagined = (o.auxiliaries.num_auxiliary_agents, o.auxiliaries.auxiliary_buffer_size)
        sizes = (N_AGENTS, OBS_DIM, STATE_DIM, N_ACTIONS, *imagined)
        self.replay = AsymmetricReplayBuffer(o.world_model.buffer_size, *sizes, seed=seed)
        n_parameters = sum(parameter.numel() for parameter in self.policy.parameters())
        elites = (o.auxiliaries.cem_population_size, o.auxiliaries.cem_elite_fraction)
        spread = (o.auxiliaries.cem_initial_std, o.auxiliaries.cem_min_std)
        self.search = CrossEntropyMethod(n_parameters, *elites, *spread)
        self.evolution_stream = torch.Generator().manual_seed(stream_seed(seed, "evolution"))
        self.imagination_stream = torch.Generator().manual_seed(stream_seed(seed, "imagination", 0))
        self.population = torch.empty(0)

    def update(self, batch: EpisodeBatch, bonus: Tensor | None = None) -> dict[str, float]:
        self.evolve(batch)
        told = self.judge(batch)
        self.replay.add_primary_episodes(batch)
        left = 1 - batch.progress if self.options.world_model.anneal else 1
        self.model_adam.param_groups[0]["lr"] = self.options.world_model.learning_rate * left
        told |= self.learn_world_model(math.ceil(self.options.world_model.steps * left))
        bonus = self.bonus(batch)
        told["bonus_share"] = float(bonus[batch.mask].abs().mean() / batch.rewards[batch.mask].abs().mean())
        return super().update(batch, bonus) | told | self.told_later

    def evolve(self, batch: EpisodeBatch) -> None:
        steps = batch.mask.nonzero()
        b, t = steps[[i * (len(steps) - 1) // 63 for i in range(64)]].unbind(dim=1)  # evenly spaced
        views = (batch.obs[b, t], batch.available_actions[b, t])
        self.population, _ = self.options.auxiliaries.evolve(self.search, self.policy, *views, self.evolution_stream)

    def judge(self, batch: EpisodeBatch) -> dict[str, float]:
        """The model's errors on the first eighth of the episodes, as it is before it learns from them."""
        some = slice(math.ceil(len(batch.mask) / 8))
        views = (batch.obs, batch.state, batch.available_actions, batch.actions)
        return {
            f"model_{name}_error_{horizon}": float(error)
            for horizon in (1, 5)
            for name, error in open_loop_errors(
                self.averaged_model, *(view[some] for view in views), horizon, batch.mask[some]
            ).items()
        }

    def learn_world_model(self, n_steps: int) -> dict[str, float]:
        o, losses = self.options.world_model, []
        for _ in range(n_steps):
            steps = []
            for member in self.world_model.members:
                real = self.replay.sample_primary(o.batch_size)
                if not o.isolation:
                    mixed = self.replay.sample_mixed(o.batch_size, self.options.replay.aux_ratio)
                    rows = [real if who == REAL else mixed for who in mixed.provenance.tolist()]
                    taken = [source[torch.tensor([i])] for i, source in enumerate(rows)]
                    real = RealExperience.passing_off(Experience.concatenate(taken))
                steps.append(world_model_losses(member(real.obs, real.state, real.actions, real.alive), real))
            parts = [part for each in steps for part in each.values()]
            descend(self.world_model, self.model_adam, parts, self.options.max_grad_norm)
            n = self.model_steps
            kept = min(o.averaging, (1 + n) / (10 + n)) if n else 0.0
            for average, weight in zip(self.averaged_model.parameters(), self.world_model.parameters(), strict=True):
                average.data = kept * average.data + (1.0 - kept) * weight.data
            self.model_steps += 1
            losses += steps
        return {f"model_{name}_loss": sum(x[name].item() for x in losses) / len(losses) for name in losses[0]}

    def bonus(self, batch: EpisodeBatch) -> Tensor:
        """λ · î of each step, [B, T]."""
        o = self.options.information
        lived = RealExperience.of_episodes(batch)
        information = self.estimator.per_transition(self.averaged_model, self.policy, lived).double()
        bonus = torch.zeros(batch.mask.shape, dtype=torch.float64)
        if o.form == "raw":
            bonus[batch.mask] = o.lambda_info * information
            return bonus
        weight = o.lambda_info * max(0.0, 1 - batch.progress / o.decay)
        spread = max(float(information.std(correction=0)), o.std_floor)
        bonus[batch.mask] = weight * (information - information.mean()) / spread
        most = o.cap * float(batch.returns.abs().mean())
        for episode in bonus:
            episode *= min(1.0, most / float(episode.abs().sum()))
        return bonus

    def further_losses(self, n_minibatch: int) -> Callable[[int], list[Tensor]]:
        """Of each minibatch's share of the replayed steps, which are judged once, before the policy learns."""
        o, agents = self.options.replay, self.options.auxiliaries
        starts = self.replay.sample_mixed(agents.num_auxiliary_agents * agents.imagination_starts, aux_ratio=0.0)
        lives = (self.population, starts, agents.imagination_horizon, self.imagination_stream)
        imagined = imagine_steps(self.averaged_model, self.policy, *lives)
        self.replay.add_auxiliary_batch(imagined)
        drawn = self.replay.sample_mixed(n_minibatch * o.batch_size, o.aux_ratio)
        now, advantages, weights = self.off_policy_targets(drawn)
        living = drawn.alive.nonzero().tolist()
        squared = (weights.sum() ** 2, weights.square().sum() * len(living))
        self.told_later = {
            "imagined_steps": len(imagined) / len(starts),
            "replay_imagined_share": float((drawn.provenance != REAL).double().mean()),
            "importance_truncated": float((weights > o.importance_cap).double().mean()),
            "replay_effective_share": float(squared[0] / squared[1]),
        }

        def loss(k: int) -> list[Tensor]:
            rows = at([(m, n) for m, n in living if m % n_minibatch == k])
            log_ratio = self.chosen(drawn)[rows] - now[rows]
            return [-o.coef * surrogate(log_ratio, advantages[rows].float(), self.options.clip_param)]

        return loss

    def chosen(self, drawn: Experience) -> Tensor:
        """log π_φ of what was done, [M, N]."""
        logits = self.policy(drawn.obs.unsqueeze(1), self.policy.initial_hidden(len(drawn)))[0].squeeze(1)
        return log_policy(logits, drawn.available_actions).gather(-1, drawn.actions.unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def off_policy_targets(self, drawn: Experience) -> tuple[Tensor, Tensor, Tensor]:
        """log π_φ as it is now and the weighted advantages, [M, N], and the living's weights π_φ / μ, not truncated."""
        o = self.options
        now = self.chosen(drawn)
        ratio = (now - drawn.log_probs).double().exp()
        value, after = (
            self.value_statistics.denormalize(self.critic(state, obs).double())
            for state, obs in ((drawn.state, drawn.obs), (drawn.next_state, drawn.next_obs))
        )
        rewards = drawn.rewards.double()
        if o.standardise_rewards:
            rewards = self.reward_statistics.normalize(rewards)
        delta = rewards + o.gamma * torch.where(drawn.done.unsqueeze(-1), 0.0, after) - value
        advantages = torch.zeros_like(delta)
        advantages[drawn.alive] = standardized(delta[drawn.alive])
        return now, ratio.clamp(max=o.replay.importance_cap) * advantages, ratio[drawn.alive]
