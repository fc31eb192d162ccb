"""Trains on amal's PettingZoo environment with TorchRL's multi-agent PPO, of which nothing is amal's own.

Needs: torchrl==0.14.1
Usage: python docs/third_party/torchrl_mappo.py [scenario] [steps]
"""

from __future__ import annotations

import sys
import warnings

import torch
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import PettingZooWrapper, RewardSum, TransformedEnv, check_env_specs
from torchrl.modules import MaskedCategorical, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss, ValueEstimators

from amal.envs import ParallelBattleEnv, parallel_env

FRAMES_PER_BATCH, EPOCHS, MINIBATCH, GRADIENT_NORM = 1000, 8, 250, 1.0
AGENTS = "agent"  # TorchRL groups agents by their names' first part
MASK = (AGENTS, "action_mask")


def make_env(scenario: str, seed: int) -> TransformedEnv:
    env = TransformedEnv(
        PettingZooWrapper(parallel_env(scenario), seed=seed),
        RewardSum(in_keys=[(AGENTS, "reward")], out_keys=[(AGENTS, "episode_reward")]),
    )
    check_env_specs(env)
    return env


def make_loss(battle: ParallelBattleEnv) -> tuple[ProbabilisticActor, ClipPPOLoss]:
    """Policy and critic with one network for all agents; the critic sees all observations."""
    sizes = {
        "n_agent_inputs": battle.observation_space("agent_0").shape[0],
        "n_agents": len(battle.possible_agents),
        "share_params": True,
        "depth": 2,
        "num_cells": 64,
        "activation_class": torch.nn.Tanh,
    }
    n_actions = int(battle.action_space("agent_0").n)
    logits = MultiAgentMLP(n_agent_outputs=n_actions, centralized=False, **sizes)
    policy = ProbabilisticActor(
        TensorDictModule(logits, in_keys=[(AGENTS, "observation")], out_keys=[(AGENTS, "logits")]),
        in_keys={"logits": (AGENTS, "logits"), "mask": MASK},
        out_keys=[(AGENTS, "action")],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
        log_prob_key=(AGENTS, "action_log_prob"),
    )
    values = MultiAgentMLP(n_agent_outputs=1, centralized=True, **sizes)
    critic = TensorDictModule(values, in_keys=[(AGENTS, "observation")], out_keys=[(AGENTS, "state_value")])
    loss = ClipPPOLoss(policy, critic, clip_epsilon=0.2, entropy_coeff=0.01, normalize_advantage=True)
    loss.set_keys(
        reward=(AGENTS, "reward"),
        action=(AGENTS, "action"),
        value=(AGENTS, "state_value"),
        sample_log_prob=(AGENTS, "action_log_prob"),
        done=(AGENTS, "done"),
        terminated=(AGENTS, "terminated"),
    )
    loss.make_value_estimator(ValueEstimators.GAE, gamma=0.99, lmbda=0.95)
    return policy, loss


def train(scenario: str, total_frames: int, seed: int = 0) -> list[float]:
    """Mean return of the episodes that ended in each batch."""
    torch.manual_seed(seed)
    policy, loss = make_loss(parallel_env(scenario))
    collector = Collector(
        make_env(scenario, seed), policy, frames_per_batch=FRAMES_PER_BATCH, total_frames=total_frames
    )
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(FRAMES_PER_BATCH), sampler=SamplerWithoutReplacement(), batch_size=MINIBATCH
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    returns = []
    for number, batch in enumerate(collector, start=1):
        with torch.no_grad():
            loss.value_estimator(
                batch, params=loss.critic_network_params, target_params=loss.target_critic_network_params
            )
        buffer.extend(batch.reshape(-1))
        for _ in range(EPOCHS):
            for minibatch in buffer:
                losses = loss(minibatch)
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), GRADIENT_NORM)
                optimizer.step()
        over = batch["next", "done"].squeeze(-1)
        returns.append(batch["next", AGENTS, "episode_reward"][over].mean().item())
        won = batch["next", AGENTS, "info", "battle_won"][over].mean().item()
        print(
            f"{number * FRAMES_PER_BATCH:6d} steps: mean return {returns[-1]:5.2f}, battles won {won:.0%}", flush=True
        )
    collector.shutdown()
    return returns


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # TorchRL's, of versions and of names to come
    train(sys.argv[1] if len(sys.argv) > 1 else "3m", int(sys.argv[2]) if len(sys.argv) > 2 else 40_000)
