"""AMAL: asymmetric multi-agent learning.

θ world model, φ team policy, ψ_i auxiliary policies. The update rule of the definition, one iteration:

θ ← θ − η ∇ L(D_P; θ) · φ ← φ − α ∇ J(φ; θ, {ψ_i}) · ψ_i ← E(ψ_i, D_A^i)

Letters: B episodes, T time, N agents, O observation size, S state size, A actions, M transitions, I auxiliary agents,
P parameters of a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from amal.algorithms.amal.auxiliaries import Auxiliaries
from amal.algorithms.amal.evolved_agents import EvolvedAgents
from amal.algorithms.amal.imagination import Imagination
from amal.algorithms.amal.imagined_battles import ImaginedBattles, SimulatedBattles, modelled_battles
from amal.algorithms.amal.information import InformationBonus
from amal.algorithms.amal.off_policy import OffPolicyReplay
from amal.algorithms.amal.world_model_learning import (
    AUDITED_STEPS,
    IsolationAudit,
    WorldModelLearning,
    mean_losses,
    prediction_errors,
    through_open_gate,
)
from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.ops.populations import flat_parameters
from amal.replay import AsymmetricReplayBuffer, RealSequences
from amal.runtime.distributed import of_first, rank
from amal.runtime.random_streams import stream_seed
from amal.types import EpisodeBatch

POLICY_AND_CRITIC = 2  # optimizers that come first; the world model's are the rest
PROBE_TRANSITIONS = 64  # real steps on which the auxiliary policies' behaviour is compared


class AMAL(MAPPO):
    """Asymmetric multi-agent learning on top of MAPPO, whose arguments it takes too.

    Each part may be null, which is its ablation. Without any of them AMAL is MAPPO, bit for bit. All of them need the
    world model. The defaults are the first design; there the policy learns from ``auxiliaries`` by ``replay``, so they
    need it. The second design has ``imagination`` instead, with auxiliary agents of its own (``configs/amal.yaml``).

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        lr: learning rate α of policy and critic, decayed linearly to 0 at the end of the budget.
        scenario: the one that is fought; comes from the data, null with other back ends.
        world_model: the world model θ and how it learns, or null.
        imagination: how the policy learns inside the world model, or null.
        information: the information bonus, or null.
        auxiliaries: the auxiliary agents ψ, or null. ``callbacks.Evolution`` evolves them.
        replay: how the policy learns from replayed and imagined steps, or null.
        mappo: further arguments of MAPPO.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        lr: float = 3e-4,
        scenario: Scenario | None = None,
        world_model: WorldModelLearning | None = WorldModelLearning(),
        imagination: Imagination | None = None,
        information: InformationBonus | None = InformationBonus(),
        auxiliaries: Auxiliaries | None = Auxiliaries(),
        replay: OffPolicyReplay | None = OffPolicyReplay(),
        **mappo: Any,
    ) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, lr=lr, **mappo)
        if self.policy.recurrent:
            raise ValueError("policy must be feed-forward for AMAL: replayed steps come without what was seen before")
        self.world_model_learning, self.information = world_model, information
        self.imagination, self.scenario = imagination, scenario
        self.auxiliaries, self.replay = auxiliaries, replay
        self.sizes = {"n_agents": n_agents, "n_actions": n_actions, "obs_dim": obs_dim, "state_dim": state_dim}
        self.world_model: WorldModelEnsemble | None = None
        self.average: AveragedModel | None = None
        if world_model is not None:
            self.world_model = world_model.build(**self.sizes, scenario=scenario)
            self.average = world_model.average_of(self.world_model)
        self.estimator = None if information is None else information.estimator()
        self._check_combination()

        evolved = self.evolved
        # what makes an auxiliary agent: numbers that are added to the logits, or a policy's parameters
        shape = (n_agents, n_actions) if auxiliaries is None else flat_parameters(self.policy).shape
        self.search = None if evolved is None else evolved.build(math.prod(shape))
        number = 0 if evolved is None else evolved.num_auxiliary_agents
        self.population: Tensor
        self.register_buffer("population", torch.zeros(number, *shape))
        self.first_diversity: Tensor
        self.register_buffer("first_diversity", torch.zeros(()))  # of generation 0

        self.seed = torch.initial_seed()
        self.evolution_metrics: dict[str, Tensor] = {}
        self.has_evolved = False  # since the last update
        self.isolation_kl = torch.zeros(())  # as of the last audit

    @property
    def averaged_model(self) -> WorldModelEnsemble | None:
        """The world model that is imagined with: of averaged weights, if they are averaged."""
        return self.world_model if self.average is None else cast(WorldModelEnsemble, self.average.module)

    @property
    def evolved(self) -> EvolvedAgents | None:
        """The auxiliary agents, with weights of their own or in the team's imagination."""
        return self.auxiliaries or (self.imagination.auxiliaries if self.imagination is not None else None)

    def _check_combination(self) -> None:
        """Raise ValueError for parts that make no sense together."""
        learning, model, estimator = self.world_model_learning, self.world_model, self.estimator
        imagination, foreign = self.imagination, self.scenario is None
        parts = (self.information, self.auxiliaries, self.replay, imagination, self.n_step_returns)
        information, own, replay, imagines, n_steps = (part is not None for part in parts)
        inside = imagination is not None and imagination.auxiliaries is not None
        perfect = imagination is not None and imagination.perfect
        is_cut = imagination is not None and imagination.max_disagreement is not None
        no_model, leaks = learning is None, learning is not None and not learning.isolation
        members = 0 if learning is None else learning.ensemble_size
        least, kind = 0 if estimator is None else estimator.least_members, type(estimator).__name__
        entity_wise = model is not None and not model.is_flat
        misread = model is not None and estimator is not None and estimator.reads_units == model.is_flat
        needed = "world_models.WorldModel" if entity_wise else "entity_model.EntityWorldModel"  # the other kind

        refused = [
            (no_model and information, "information must be null without a world_model"),
            (no_model and own, "auxiliaries must be null without a world_model"),
            (no_model and replay, "replay must be null without a world_model"),
            (leaks and not own, "world_model.isolation must be true without auxiliaries: there is nothing to let in"),
            (members < least, f"world_model.ensemble_size must be at least {least} for {kind}, got {members}"),
            (entity_wise and own, "auxiliaries needs amal.networks.world_models.WorldModel as world_model.model"),
            (entity_wise and replay, "replay needs amal.networks.world_models.WorldModel as world_model.model"),
            (misread, f"information.estimator {kind} needs amal.networks.{needed} as world_model.model"),
            (no_model and imagines, "imagination must be null without a world_model"),
            (inside and own, "auxiliaries must be null with imagination.auxiliaries"),
            (inside and n_steps, "n_step_returns must be null with imagination.auxiliaries, whose steps have weights"),
            (perfect and foreign, "imagination.perfect must be false: only the embedded simulator can be imagined in"),
            (
                is_cut and perfect,
                "imagination.max_disagreement must be null with imagination.perfect: the simulator has no members",
            ),
            (
                is_cut and not entity_wise,
                f"imagination.max_disagreement needs amal.networks.{needed} as world_model.model",
            ),
            (
                is_cut and members < 2,
                f"imagination.max_disagreement needs a world_model.ensemble_size of 2 at least, got {members}",
            ),
            (own and not replay, "auxiliaries must be null without replay: nobody would learn from what they imagine"),
        ]
        for is_so, message in refused:
            if is_so:
                raise ValueError(message)

    def check_episodes(self, episodes_per_update: int, snapshots: bool) -> None:
        super().check_episodes(episodes_per_update, snapshots)
        if self.imagination is not None and self.imagination.perfect and not snapshots:
            raise ValueError("imagination.perfect needs data.snapshots: true")

    @cached_property
    def replay_buffer(self) -> AsymmetricReplayBuffer:
        """D_P and D_A; they take memory once something learns."""
        learning, auxiliaries = self.world_model_learning, self.auxiliaries
        assert learning is not None
        options: dict[str, Any] = {**self.sizes, "num_auxiliary_agents": 0}
        if auxiliaries is not None:
            options["num_auxiliary_agents"] = auxiliaries.num_auxiliary_agents
            options["auxiliary_capacity"] = auxiliaries.auxiliary_buffer_size
        if learning.buffer_folder is not None:
            options |= {"memory_map": True, "folder": learning.buffer_folder}
        if self.imagination is not None and self.imagination.perfect:
            assert self.scenario is not None
            options["snapshot_size"] = VectorBattle(self.scenario, 1).snapshots.shape[1]
        return AsymmetricReplayBuffer(learning.buffer_size, **options, seed=self.seed % 2**63)

    @cached_property
    def imagined_battles(self) -> ImaginedBattles:
        """Where the team imagines."""
        assert self.imagination is not None and self.averaged_model is not None
        if not self.imagination.perfect:
            return modelled_battles(self.averaged_model, self.imagination.max_disagreement)
        assert self.scenario is not None
        return SimulatedBattles(self.scenario)

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device
        self.evolution_generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "evolution"))
        imagination = stream_seed(self.seed, "imagination", rank())
        self.imagination_generator = torch.Generator(device).manual_seed(imagination)

    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """One iteration: the world model from real data, the bonus, imagination, then the policy from all of it."""
        if self.averaged_model is None:
            return super().learn(batch, progress)
        if self.evolved is not None and not self.evolution_metrics:
            raise RuntimeError("AMAL's auxiliary agents were never evolved: the trainer needs callbacks.Evolution()")
        profile = self.trainer.profiler.profile  # type: ignore[attr-defined]
        metrics = {"train/lr": self.set_schedules(progress)}
        with profile("world_model"):
            metrics |= self.learn_world_model(batch, progress)
        bonus: Tensor | None = None
        if self.information is not None and self.estimator is not None:
            with profile("information"):
                judges = (self.estimator, self.averaged_model, self.policy)
                bonus, told = self.information.bonus(*judges, batch, progress)
                metrics |= told
        transitions, critic_fit = self.estimate_advantages(batch, bonus)
        if self.auxiliaries is not None:
            with profile("imagination"):
                lives = (self.population, self.replay_buffer, self.imagination_generator)
                metrics |= self.auxiliaries.act(self.averaged_model, self.policy, *lives)
        minibatches = self.minibatches(batch, transitions)
        off_policy: Iterable[Tensor] = ()
        if self.replay is not None:
            with profile("replay"):
                off_policy, told = self.replay.losses(self, self.replay_buffer, len(minibatches))
                metrics |= told
        metrics |= self.take_steps(transitions, minibatches, off_policy)
        if self.imagination is not None:
            with profile("imagination"):
                inside = (self.imagined_battles, self.replay_buffer, self.population, self.imagination_generator)
                told = self.imagination.learn(self, *inside, progress)
            metrics |= told
            metrics["train/policy_steps"] += told.get("train/imagination_policy_steps", 0.0)
        return metrics | {"train/explained_variance": critic_fit} | self.evolution_metrics

    def set_schedules(self, progress: float) -> Tensor:
        """MAPPO's, and the learning rate of the world model where it has a schedule."""
        learning = self.world_model_learning
        if learning is not None:
            rate, _ = learning.schedule(progress)
            for optimizer in self.all_optimizers()[POLICY_AND_CRITIC:]:
                for group in optimizer.param_groups:
                    group["lr"] = rate
        return super().set_schedules(progress)

    def learn_world_model(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """D_P ← D_P ∪ batch, θ ← θ − η ∇ L(D_P; θ). After an evolution these steps are audited for isolation."""
        learning, world_model = self.world_model_learning, self.world_model
        assert learning is not None and world_model is not None and self.averaged_model is not None
        metrics = prediction_errors(self.averaged_model, batch)
        self.replay_buffer.add_primary_episodes(batch)
        optimizers = self.all_optimizers()[POLICY_AND_CRITIC:]
        draw: Callable[[int, int], RealSequences] = self.replay_buffer.sample_sequences
        if not learning.isolation:
            assert self.replay is not None
            draw = partial(through_open_gate, self.replay_buffer, self.replay.aux_ratio)
        _, steps = learning.schedule(progress)
        fit = partial(
            learning.fit, world_model, optimizers, draw, max_grad_norm=self.max_grad_norm, average=self.average
        )
        known = (learning, world_model, optimizers, self.replay_buffer)
        audit = IsolationAudit(*known) if self.has_evolved else None
        audited = 0 if audit is None else min(steps, AUDITED_STEPS)
        losses = fit(steps=audited)
        if audit is not None:
            self.isolation_kl = audit.divergence(audited, self.max_grad_norm)
            self.has_evolved = False
        losses += fit(steps=steps - audited)
        metrics |= mean_losses(losses)
        return metrics if self.evolved is None else metrics | {"train/isolation_kl": self.isolation_kl}

    def evolve(self, batch: EpisodeBatch) -> None:
        """ψ_i ← E(ψ_i): a new generation of auxiliary agents; ``callbacks.Evolution`` says when.

        Args:
            batch: real episodes; evenly spaced steps of them are what behaviour is compared on.
        """
        assert self.search is not None
        happened = batch.mask.flatten().nonzero().squeeze(-1)
        probe = happened[torch.linspace(0, len(happened) - 1, PROBE_TRANSITIONS, device=happened.device).long()]
        obs, available = (of_first(x[:, :-1].flatten(0, 1)[probe]) for x in (batch.obs, batch.available_actions))
        generator = self.evolution_generator
        if self.auxiliaries is not None:
            self.population, metrics = self.auxiliaries.evolve(self.search, self.policy, obs, available, generator)
        else:
            assert self.imagination is not None
            inside = (self.imagined_battles, self.replay_buffer)
            self.population, metrics = self.imagination.evolve(
                self.search, self, *inside, self.population, obs, available, generator
            )
        if self.first_diversity == 0.0:  # which it stays while there are none
            self.first_diversity.copy_(metrics["diversity"].nan_to_num(0.0))
        ratio = metrics["diversity"] / self.first_diversity.clamp_min(1e-8)
        metrics |= {"diversity_to_first": ratio}
        self.evolution_metrics = {f"train/auxiliary_{name}": value for name, value in metrics.items()}
        self.has_evolved = True

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """MAPPO's two, and those of the world model."""
        optimizers = super().configure_optimizers()
        if self.world_model_learning is not None and self.world_model is not None:
            optimizers += self.world_model_learning.optimizers(self.world_model)
        return optimizers

    def learning_state(self) -> Any:
        if self.world_model_learning is None:
            return super().learning_state()
        return {
            **super().learning_state(),
            "replay_buffer": self.replay_buffer.state_dict(),
            "evolution_generator": self.evolution_generator.get_state(),
            "imagination_generator": self.imagination_generator.get_state(),
            "evolution_metrics": self.evolution_metrics,
            "isolation_kl": self.isolation_kl,
            "has_evolved": self.has_evolved,
        }

    def load_learning_state(self, state: Any) -> None:
        super().load_learning_state(state)
        if self.world_model_learning is None:
            return
        self.replay_buffer.load_state_dict(state["replay_buffer"])
        self.evolution_generator.set_state(state["evolution_generator"].cpu())
        self.imagination_generator.set_state(state["imagination_generator"].cpu())
        self.evolution_metrics, self.isolation_kl = state["evolution_metrics"], state["isolation_kl"]
        self.has_evolved = state["has_evolved"]
