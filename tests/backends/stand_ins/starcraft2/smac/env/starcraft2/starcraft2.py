"""StarCraft2Env with the original's arguments, returns and habits, but a game of its own.

Habits kept: until an episode has ended each reset launches a game and forgets the one before; the limit of an episode
ends it like a battle, and is told only to those who asked with ``continuing_episode``; when the game breaks down, a
step returns ``0, True, {}``; the game is a process of its own, which outlives a killed parent.
"""

import subprocess
from types import SimpleNamespace

import numpy as np
from faults import happens
from skirmish import FIRST_TARGET, Skirmish


class StarCraft2Env:
    def __init__(
        self,
        map_name="8m",
        step_mul=None,
        move_amount=2,
        difficulty="7",
        game_version=None,
        seed=None,
        continuing_episode=False,
        obs_all_health=True,
        obs_own_health=True,
        obs_last_action=False,
        obs_pathing_grid=False,
        obs_terrain_height=False,
        obs_instead_of_state=False,
        state_last_action=True,
        reward_sparse=False,
        reward_only_positive=True,
        reward_death_value=10,
        reward_win=200,
        reward_defeat=0,
        reward_negative_scale=0.5,
        reward_scale=True,
        reward_scale_rate=20,
        replay_dir="",
        replay_prefix="",
        window_size_x=1920,
        window_size_y=1200,
        debug=False,
    ):
        self._battle = Skirmish(map_name, seed)
        self.n_agents, self.n_enemies = self._battle.n_agents, self._battle.n_enemies
        self.n_actions = FIRST_TARGET + self.n_enemies
        self.episode_limit = self._battle.limit
        self.continuing_episode = continuing_episode
        self.reward_sparse, self.reward_scale_rate = reward_sparse, reward_scale_rate
        self.obs_timestep = bool(obs_last_action)  # stands for the options that lengthen the observations
        self.agents, self.enemies = {}, {}
        self._episode_count = 0
        self._sc2_proc = None

    def get_env_info(self):
        return {
            "state_shape": 1 + self.n_agents + self.n_enemies,
            "obs_shape": 3 + self.n_enemies + self.obs_timestep,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self):
        happens("crash_at_reset")
        if self._episode_count == 0:
            self._sc2_proc = subprocess.Popen(["sleep", "1000"])
            print("Launched the game")
        self._steps = 0
        self._battle.begin()
        self._update_units()
        return self.get_obs(), self.get_state()

    def step(self, actions):
        actions = [int(action) for action in actions]
        self._steps += 1
        if self._steps == 3:
            happens("crash")
            happens("hang")
            if happens("error"):
                raise AssertionError("units went missing")
            if happens("lose_the_game"):
                return 0, True, {}
        self._battle.play(actions)
        self._update_units()
        won, terminated = self._battle.won, self._battle.decided
        info = {"battle_won": won}
        reward = self._battle.reward * self.reward_scale_rate / 20
        if self.reward_sparse:
            reward = (1 if won else -1) if terminated else 0
        if not terminated and self._steps >= self.episode_limit:
            terminated = True
            if self.continuing_episode:
                info["episode_limit"] = True
        self._episode_count += terminated
        return reward, terminated, info

    def _update_units(self):
        self.agents = {k: SimpleNamespace(health=float(h)) for k, h in enumerate(self._battle.allies)}
        self.enemies = {k: SimpleNamespace(health=float(h)) for k, h in enumerate(self._battle.enemies)}

    def get_obs(self):
        more = [self._steps] * self.obs_timestep
        return [np.float32([*self._battle.obs(agent), *more]) for agent in range(self.n_agents)]

    def get_state(self):
        return np.float32(self._battle.state())

    def get_avail_actions(self):
        return [self._battle.available(agent) for agent in range(self.n_agents)]

    def close(self):
        if self._sc2_proc:
            self._sc2_proc.kill()
            self._sc2_proc.wait()
