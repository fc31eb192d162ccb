"""Trains a team with BenchMARL's MAPPO.

Needs: benchmarl==1.5.2
Usage: python docs/third_party/benchmarl_mappo.py [scenario] [steps] [folder]
"""

from __future__ import annotations

import copy
import sys
import tempfile

import torch
from benchmarl.algorithms import MappoConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from tensordict import TensorDictBase
from torchrl.envs import PettingZooWrapper

from amal.envs import parallel_env


class BattleTask(PettingZooClass):
    """BenchMARL's PettingZoo task over a battle that is made here."""

    def get_env_fun(self, num_envs, continuous_actions, seed, device):  # type: ignore[no-untyped-def]
        return lambda: PettingZooWrapper(
            parallel_env(self.name), return_state=True, categorical_actions=True, seed=seed, device=device
        )

    def supports_discrete_actions(self) -> bool:
        return True

    def has_state(self) -> bool:
        return True

    def has_render(self, env: object) -> bool:
        return False

    def max_steps(self, env: object) -> int:
        return 400  # of an evaluation; no battle of SMAC's scenarios is longer


class PrintedReturns(Callback):
    """Prints what BenchMARL otherwise writes to files."""

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        over = batch["next", "agent", "done"].squeeze(-1)
        mean = batch["next", "agent", "episode_reward"][over].mean().item()
        won = batch["next", "agent", "info", "battle_won"][over].float().mean().item()
        print(f"{self.experiment.total_frames:6d} steps: mean return {mean:5.2f}, battles won {won:.0%}", flush=True)


def train(scenario: str, steps: int, folder: str) -> None:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_frames = steps
    config.on_policy_collected_frames_per_batch = 1000
    config.on_policy_n_envs_per_worker = 8
    config.on_policy_n_minibatch_iters = 8
    config.on_policy_minibatch_size = 250
    config.lr = 1e-3
    config.evaluation = False
    config.loggers = []
    config.create_json = False
    config.save_folder = folder
    algorithm = MappoConfig.get_from_yaml()
    algorithm.entropy_coef = 0.01
    model = MlpConfig(num_cells=[64, 64], activation_class=torch.nn.Tanh, layer_class=torch.nn.Linear)
    Experiment(
        task=BattleTask(scenario, {}),
        algorithm_config=algorithm,
        model_config=model,
        critic_model_config=copy.deepcopy(model),
        seed=0,
        config=config,
        callbacks=[PrintedReturns()],
    ).run()


if __name__ == "__main__":
    train(
        sys.argv[1] if len(sys.argv) > 1 else "3m",
        int(sys.argv[2]) if len(sys.argv) > 2 else 40_000,
        sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp(),
    )
