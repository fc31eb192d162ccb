"""Trains with sb3-contrib's MaskablePPO; each agent is an environment of Stable-Baselines3, all share one policy.

Needs: sb3-contrib==2.9.2 supersuit==3.11.0
Usage: python docs/third_party/sb3_maskable_ppo.py [scenario] [steps]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecMonitor
from supersuit import concat_vec_envs_v1, pettingzoo_env_to_vec_env_v1
from supersuit.vector.sb3_vector_wrapper import SB3VecEnvWrapper

from amal.envs import parallel_env

BATTLES, EVALUATED = 8, 32


class MaskedBattles(SB3VecEnvWrapper):
    """SuperSuit's vector environment, which by itself calls no method of the battles in it."""

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.venv.reset(seed=seed)
        return [seed] * self.num_envs

    def has_attr(self, attr_name: str) -> bool:
        return all(hasattr(team.par_env, attr_name) for team in self.venv.vec_envs)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Of each battle, not of each agent: action_masks then has a row per agent, battle by battle."""
        return [getattr(team.par_env, method_name)(*args, **kwargs) for team in self.venv.vec_envs]


def train(scenario: str, steps: int) -> None:
    env = parallel_env(scenario)
    team = len(env.possible_agents)
    battles = MaskedBattles(concat_vec_envs_v1(pettingzoo_env_to_vec_env_v1(env), BATTLES))
    model = MaskablePPO(
        "MlpPolicy",
        VecMonitor(battles),
        n_steps=128,
        batch_size=768,
        ent_coef=0.01,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
    )
    for goal in range(5_000, steps + 1, 5_000):
        model.learn(goal * team - model.num_timesteps, reset_num_timesteps=False)
        mean = np.mean([episode["r"] for episode in model.ep_info_buffer])  # of the last 100 agents' episodes
        won = share_won(model, scenario)
        print(f"{model.num_timesteps // team:6d} steps: mean return {mean:5.2f}, battles won {won:.0%}", flush=True)


def share_won(model: MaskablePPO, scenario: str) -> float:
    """Of battles with sampled actions. In training SuperSuit overwrites an episode's last infos with the next one's."""
    env = parallel_env(scenario, seed=1)
    won = 0
    for _ in range(EVALUATED):
        obs, infos = env.reset()
        while env.agents:
            actions, _ = model.predict(np.stack(list(obs.values())), action_masks=env.action_masks())
            obs, _, _, _, infos = env.step(dict(zip(env.agents, actions, strict=True)))
        won += infos["agent_0"]["battle_won"]
    return won / EVALUATED


if __name__ == "__main__":
    train(sys.argv[1] if len(sys.argv) > 1 else "3m", int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
