"""AMAL: asymmetric multi-agent learning.

θ world model, φ team policy, ψ_i auxiliary policies. The update rule of the definition, one iteration:

θ ← θ − η ∇ L(D_P; θ) · φ ← φ − α ∇ J(φ; θ, {ψ_i}) · ψ_i ← E(ψ_i, D_A^i)

Letters: B episodes, T time, N agents, O observation size, S state size, A actions, M transitions, I auxiliary agents,
P parameters of a policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from amal.algorithms.amal.auxiliaries import evolve
from amal.algorithms.amal.imagination import imagine
from amal.algorithms.amal.off_policy import in_hindsight
from amal.algorithms.amal.world_model_learning import IsolationAudit, fit_world_model
from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, Transitions, every_nth
from amal.networks.world_models import WorldModel, WorldModelEnsemble, open_loop_errors
from amal.ops.bonus import capped_bonus, decayed, standardized_bonus
from amal.ops.cem import CrossEntropyMethod
from amal.ops.information import InformationEstimator, MutualInformationEstimator
from amal.ops.losses import (
    chosen_log_probs,
    clipped_surrogate,
    effective_sample_share,
    masked_mean,
    masked_moments,
    masked_variance,
    mean,
)
from amal.ops.populations import flat_parameters
from amal.replay import REAL, AsymmetricReplayBuffer, RealExperience
from amal.runtime.argument_checks import check_at_least, check_choice, check_positive, check_share
from amal.runtime.distributed import of_first, pooled, rank
from amal.runtime.random_streams import stream_seed
from amal.types import EpisodeBatch

PROBE_TRANSITIONS = 64  # real steps on which the auxiliary policies' behaviour is compared
HELD_OUT = 8  # one in so many episodes of a fresh rollout: there the world model is judged before it learns from them
OPEN_LOOP_HORIZONS = (1, 5)


class AMAL(MAPPO):
    """Asymmetric multi-agent learning on top of MAPPO, whose arguments it takes too.

    With ``lambda_info=0``, ``num_auxiliary_agents=0`` and ``replay_coef=0`` it is MAPPO, bit for bit.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        lr: learning rate of policy and critic, decayed linearly to 0 at the end of the budget.
        world_model: class of the world model's members.
        ensemble_size: members of the world model; each learns from batches of its own.
        world_model_lr: learning rate η of the world model, constant.
        world_model_steps: optimizer steps of the world model per update.
        world_model_batch_size: real transitions per such step.
        isolation: the world model learns from real transitions only. False opens the gate, for ablation.
        information: class of the estimator of the information bonus.
        lambda_info: weight λ of the information bonus in the reward; 0 turns it off.
        information_bonus: "shaped" centres, scales, caps and decays the bonus; "raw" is the paper's, λ · î.
        lambda_decay: share of the budget over which λ falls to 0 if shaped; 0 keeps it.
        bonus_std_floor: least standard deviation that a shaped bonus is divided by, in nats.
        bonus_cap: most that an episode's shaped bonuses add up to, in shares of the mean return.
        replay_coef: weight of the off-policy part of the policy loss; 0 turns replay off.
        replay_batch_size: replayed transitions in each minibatch step.
        aux_ratio: share of them that are imagined.
        importance_cap: where importance weights of replayed actions are truncated.
        replay_capacity: real transitions that are kept.
        replay_folder: where the replay buffer's files go; by default it is in memory, unless it exceeds 2 GiB.
        auxiliary_capacity: imagined transitions that are kept of each auxiliary agent.
        num_auxiliary_agents: I; 0 turns them off.
        imagination_starts: real states from which each auxiliary agent starts, per update.
        imagination_horizon: steps that it then takes in the world model.
        cem_population_size: candidates of each generation.
        cem_elite_fraction: share of them that the next generation is drawn around.
        cem_initial_std: standard deviation of the first generation's parameters around those of the policy.
        cem_min_std: floor under the standard deviation.
        distance_weight: β, weight of leaving the distance band against the diversity.
        distance_band: least and most mean KL divergence, in nats, that an auxiliary policy should have to the policy.
        mappo: further arguments of MAPPO.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        lr: float = 3e-4,
        world_model: Callable[[int, int, int, int], WorldModel] = WorldModel,
        ensemble_size: int = 1,
        world_model_lr: float = 3e-4,
        world_model_steps: int = 8,
        world_model_batch_size: int = 256,
        isolation: bool = True,
        information: Callable[[], InformationEstimator] = MutualInformationEstimator,
        lambda_info: float = 0.3,
        information_bonus: Literal["shaped", "raw"] = "shaped",
        lambda_decay: float = 0.5,
        bonus_std_floor: float = 0.1,
        bonus_cap: float = 0.1,
        replay_coef: float = 1.0,
        replay_batch_size: int = 256,
        aux_ratio: float = 0.3,
        importance_cap: float = 1.0,
        replay_capacity: int = 100_000,
        replay_folder: str | None = None,
        auxiliary_capacity: int = 10_000,
        num_auxiliary_agents: int = 16,
        imagination_starts: int = 16,
        imagination_horizon: int = 5,
        cem_population_size: int = 100,
        cem_elite_fraction: float = 0.2,
        cem_initial_std: float = 0.1,
        cem_min_std: float = 0.05,
        distance_weight: float = 1.0,
        distance_band: tuple[float, float] = (0.05, 0.5),
        **mappo: Any,
    ) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, lr=lr, **mappo)
        if self.policy.recurrent:
            raise ValueError("policy must be feed-forward for AMAL: replayed steps come without what was seen before")
        check_at_least(1, world_model_batch_size=world_model_batch_size, replay_batch_size=replay_batch_size)
        check_at_least(1, imagination_starts=imagination_starts, imagination_horizon=imagination_horizon)
        check_at_least(1, replay_capacity=replay_capacity, auxiliary_capacity=auxiliary_capacity)
        check_at_least(0, num_auxiliary_agents=num_auxiliary_agents, world_model_steps=world_model_steps)
        check_at_least(0.0, lambda_info=lambda_info, replay_coef=replay_coef, bonus_cap=bonus_cap)
        check_at_least(0.0, distance_weight=distance_weight)
        check_positive(world_model_lr=world_model_lr, bonus_std_floor=bonus_std_floor, importance_cap=importance_cap)
        check_share(aux_ratio=aux_ratio, lambda_decay=lambda_decay)
        check_choice(("shaped", "raw"), information_bonus=information_bonus)
        if not 0.0 <= distance_band[0] <= distance_band[1]:
            raise ValueError(f"distance_band must be two divergences, the lower one first, got {list(distance_band)}")

        self.world_model = WorldModelEnsemble(world_model, ensemble_size, n_agents, n_actions, obs_dim, state_dim)
        self.world_model_lr = world_model_lr
        self.world_model_steps = world_model_steps
        self.world_model_batch_size = world_model_batch_size
        self.isolation = isolation
        self.information = information()
        if ensemble_size < self.information.least_members:
            allowed = f"at least {self.information.least_members} for {type(self.information).__name__}"
            raise ValueError(f"ensemble_size must be {allowed}, got {ensemble_size}")
        self.lambda_info = lambda_info
        self.information_bonus_form = information_bonus
        self.lambda_decay = lambda_decay
        self.bonus_std_floor = bonus_std_floor
        self.bonus_cap = bonus_cap
        self.replay_coef = replay_coef
        self.replay_batch_size = replay_batch_size
        self.aux_ratio = aux_ratio
        self.importance_cap = importance_cap
        self.num_auxiliary_agents = num_auxiliary_agents
        self.imagination_starts = imagination_starts
        self.imagination_horizon = imagination_horizon
        self.distance_weight = distance_weight
        self.distance_band = distance_band

        self.seed = torch.initial_seed()
        self.make_replay = partial(
            AsymmetricReplayBuffer,
            replay_capacity,
            n_agents,
            obs_dim,
            state_dim,
            n_actions,
            num_auxiliary_agents=num_auxiliary_agents,
            auxiliary_capacity=auxiliary_capacity,
            memory_map=None if replay_folder is None else True,
            folder=replay_folder,
            seed=self.seed % 2**63,
        )
        n_parameters = len(flat_parameters(self.policy))
        self.search = CrossEntropyMethod(
            n_parameters, cem_population_size, cem_elite_fraction, cem_initial_std, cem_min_std
        )
        if num_auxiliary_agents > self.search.n_elites:
            allowed = f"at most the elites of cem_population_size ({self.search.n_elites})"
            raise ValueError(f"num_auxiliary_agents must be {allowed}, got {num_auxiliary_agents}")
        self.auxiliary: Tensor
        self.register_buffer("auxiliary", torch.zeros(num_auxiliary_agents, n_parameters))
        self.first_diversity: Tensor
        self.register_buffer("first_diversity", torch.zeros(()))  # of generation 0
        self.evolution_metrics: dict[str, Tensor] = {}
        self.has_evolved = False  # since the last update
        self.isolation_kl = torch.zeros(())  # as of the last audit
        self._seconds: dict[str, float] = {}

    @cached_property
    def replay(self) -> AsymmetricReplayBuffer:
        """D_P and D_A; they take memory once something learns."""
        return self.make_replay()

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device
        self.evolution_generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "evolution"))
        imagination = stream_seed(self.seed, "imagination", rank())
        self.imagination_generator = torch.Generator(device).manual_seed(imagination)

    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """One iteration: the world model from real data, the bonus, imagination, then the policy from all of it."""
        self._seconds = {}
        metrics = {"train/lr": self.set_learning_rate(progress)}
        metrics |= self.judge_world_model(batch)
        self.replay.add_primary_episodes(batch.to("cpu"))
        metrics |= self.learn_world_model()
        bonus, curiosity = self.information_bonus(batch, progress)
        transitions, critic_fit = self.estimate_advantages(batch, bonus)
        imagined = self.imagine()
        minibatches = self.minibatches(batch, transitions)
        shares, off_policy = self.replayed_shares(len(minibatches))
        with self._timed("policy"):
            metrics |= self.take_steps(transitions, minibatches, (self.off_policy_loss(*share) for share in shares))
        seconds = {f"train/seconds_{part}": torch.tensor(seconds) for part, seconds in self._seconds.items()}
        metrics |= imagined | off_policy | curiosity | {"train/explained_variance": critic_fit}
        return metrics | self.evolution_metrics | seconds

    def judge_world_model(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Prediction errors on episodes that the world model has not learned from yet, beside the trivial predictor's;
        NaN if no episode is long enough."""
        with self._timed("judging"):
            some = batch[: math.ceil(len(batch.mask) / HELD_OUT)]
            views = (some.obs, some.state, some.available_actions, some.actions)
            errors = {
                horizon: open_loop_errors(self.world_model, *views, horizon, some.mask)
                for horizon in OPEN_LOOP_HORIZONS
                if horizon <= batch.mask.shape[1]
            }
        return {f"train/model_{name}_error_{h}": error for h, named in errors.items() for name, error in named.items()}

    def learn_world_model(self) -> dict[str, Tensor]:
        """θ ← θ − η ∇ L(D_P; θ). After an evolution these steps are audited for isolation."""
        if self.world_model_steps == 0:
            return {}
        with self._timed("world_model"):
            optimizer = self.all_optimizers()[2]
            draw = self.replay.sample_primary if self.isolation else self._through_open_gate
            audit = IsolationAudit(self.world_model, optimizer, self.replay) if self.has_evolved else None
            settings = (self.world_model_steps, self.world_model_batch_size, self.max_grad_norm)
            metrics = fit_world_model(self.world_model, optimizer, draw, *settings)
            if audit is not None:
                self.isolation_kl = audit.divergence(*settings)
                self.has_evolved = False
        return metrics | {"train/isolation_kl": self.isolation_kl}

    def _through_open_gate(self, batch_size: int) -> RealExperience:
        """What isolation forbids: imagined transitions passed off as real."""
        return RealExperience.passing_off(self.replay.sample_mixed(batch_size, self.aux_ratio))

    @torch.no_grad()
    def information_bonus(self, batch: EpisodeBatch, progress: float) -> tuple[Tensor | None, dict[str, Tensor]]:
        """λ · î of every step [B, T], shaped or raw, or None where λ is 0; and what it amounts to beside the rewards.

        The critic does not learn it: replayed steps are judged by the same values, and come without a bonus."""
        weight = self.lambda_info
        if self.information_bonus_form == "shaped":
            weight = decayed(weight, progress, self.lambda_decay)
        if weight == 0.0:
            self._seconds["information"] = 0.0  # Lightning would repeat the last one
            nothing = {"train/information": math.nan, "train/information_std": math.nan, "train/bonus_share": 0.0}
            return None, {name: torch.tensor(value) for name, value in nothing.items()}
        with self._timed("information"):
            lived = RealExperience.of_episodes(batch)
            terms = self.information.per_transition(self.world_model, self.policy, lived)
            information = torch.zeros_like(batch.rewards).masked_scatter(batch.mask, terms)
            if self.information_bonus_form == "shaped":
                moments = pooled(masked_moments(information, batch.mask))
                bonus = weight * standardized_bonus(information, batch.mask, moments, self.bonus_std_floor)
                mean_return, *_ = pooled(masked_moments(batch.returns.abs(), batch.mask[:, 0]))
                bonus = capped_bonus(bonus, mean_return, self.bonus_cap)
            else:
                bonus = weight * information
        earned = masked_mean(batch.rewards.abs(), batch.mask)
        return bonus, {
            "train/information": masked_mean(information, batch.mask),
            "train/information_std": masked_variance(information, batch.mask).sqrt(),
            "train/bonus_share": masked_mean(bonus.abs(), batch.mask) / earned.clamp_min(1e-8),
        }

    @property
    def imagines(self) -> bool:
        """Whether auxiliary agents act; they are evolved by ``callbacks.Evolution``."""
        return self.num_auxiliary_agents > 0 and self.replay_coef > 0.0

    def imagine(self) -> dict[str, Tensor]:
        """The auxiliary agents act inside the world model, from real states, into D_A; how far they came on average."""
        if not self.imagines:
            return {}
        with self._timed("imagination"):
            starts = self.replay.sample_mixed(self.num_auxiliary_agents * self.imagination_starts, aux_ratio=0.0)
            imagined = imagine(
                self.world_model,
                self.policy,
                self.auxiliary,
                starts.to(self.device),
                self.imagination_horizon,
                self.imagination_generator,
            )
            self.replay.add_auxiliary_batch(imagined.to("cpu"))
        return {"train/imagined_steps": torch.tensor(len(imagined) / len(starts), device=self.device)}

    def replayed_shares(self, n_minibatch: int) -> tuple[list[tuple[Transitions, Minibatch]], dict[str, Tensor]]:
        """Which replayed and imagined steps go with each minibatch, and what they are like; none if replay is off."""
        if self.replay_coef == 0.0:
            return [], {}
        replayed, metrics = self.replayed_transitions(n_minibatch)
        shares = every_nth(replayed.alive, n_minibatch)  # real ones come first: a fair share for each
        return [(replayed, share) for share in shares], metrics

    def replayed_transitions(self, n_minibatch: int) -> tuple[Transitions, dict[str, Tensor]]:
        """Replayed steps and then imagined ones, for all minibatches."""
        with self._timed("replay"):
            drawn = self.replay.sample_mixed(n_minibatch * self.replay_batch_size, self.aux_ratio).to(self.device)
            transitions, log_ratio = in_hindsight(self, drawn, self.importance_cap)
        truncated = (log_ratio > math.log(self.importance_cap)).to(log_ratio.dtype)
        return transitions, {
            "train/importance_truncated": masked_mean(truncated, transitions.alive),
            "train/replay_effective_share": effective_sample_share(log_ratio, transitions.alive),
            "train/replay_imagined_share": (drawn.provenance != REAL).float().mean(),
        }

    def off_policy_loss(self, replayed: Transitions, minibatch: Minibatch) -> Tensor:
        """Clipped surrogate on replayed and imagined steps, to be minimised; it trains the policy only."""
        chosen = replayed[minibatch.steps]
        logits = self.policy.at_rows(chosen.obs, minibatch.rows)
        lived = chosen.at_rows(minibatch.rows)
        log_ratio = chosen_log_probs(logits, lived.available_actions, lived.actions) - lived.log_probs
        return -self.replay_coef * mean(clipped_surrogate(log_ratio, lived.advantages, self.clip_param))

    def evolve(self, batch: EpisodeBatch) -> None:
        """ψ_i ← E(ψ_i): a new generation of auxiliary agents; ``callbacks.Evolution`` says when.

        Args:
            batch: real episodes; evenly spaced steps of them are what behaviour is compared on.
        """
        if self.num_auxiliary_agents == 0:
            return
        happened = batch.mask.flatten().nonzero().squeeze(-1)
        probe = happened[torch.linspace(0, len(happened) - 1, PROBE_TRANSITIONS, device=happened.device).long()]
        obs, available = (of_first(x[:, :-1].flatten(0, 1)[probe]) for x in (batch.obs, batch.available_actions))
        self.auxiliary, metrics = evolve(
            self.search,
            self.policy,
            obs,
            available,
            self.num_auxiliary_agents,
            self.distance_weight,
            self.distance_band,
            self.evolution_generator,
        )
        if not self.evolution_metrics:
            self.first_diversity.copy_(metrics["diversity"])
        ratio = metrics["diversity"] / self.first_diversity.clamp_min(1e-8)
        metrics |= {"diversity_to_first": ratio}
        self.evolution_metrics = {f"train/auxiliary_{name}": value for name, value in metrics.items()}
        self.has_evolved = True

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """MAPPO's two, and Adam for the world model."""
        world_model = torch.optim.Adam(self.world_model.parameters(), lr=self.world_model_lr, fused=True)
        return [*super().configure_optimizers(), world_model]

    def learning_state(self) -> Any:
        return {
            **super().learning_state(),
            "replay": self.replay.state_dict(),
            "evolution_generator": self.evolution_generator.get_state(),
            "imagination_generator": self.imagination_generator.get_state(),
            "evolution_metrics": self.evolution_metrics,
            "isolation_kl": self.isolation_kl,
            "has_evolved": self.has_evolved,
        }

    def load_learning_state(self, state: Any) -> None:
        super().load_learning_state(state)
        self.replay.load_state_dict(state["replay"])
        self.evolution_generator.set_state(state["evolution_generator"].cpu())
        self.imagination_generator.set_state(state["imagination_generator"].cpu())
        self.evolution_metrics, self.isolation_kl = state["evolution_metrics"], state["isolation_kl"]
        self.has_evolved = state["has_evolved"]

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start
