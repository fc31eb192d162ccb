"""StarCraft2Env with the original's arguments, returns and habits, but a game of its own.

Habits kept: until an episode has ended each reset launches a game and forgets the one before; what is wrong with the
difficulty, the game or its map is found then, and not before; the limit of an episode ends it like a battle, and is
told only to those who asked with ``continuing_episode``; sparse rewards are scaled like others; observations with the
number of the step are one longer than it says; when the game breaks down, a step returns ``0, True, {}``; the game is
a process of its own, which outlives a killed parent.
"""

import subprocess
from types import SimpleNamespace

import numpy as np
from faults import happens
from pysc2 import maps, run_configs
from skirmish import FIRST_TARGET, MAPS, Skirmish

difficulties = {name: number for number, name in enumerate("123456789A")}


class StarCraft2Env:
    def __init__(
        self,
        map_name="8m",
        step_mul=8,
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
        obs_timestep_number=False,
        state_last_action=True,
        state_timestep_number=False,
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
        heuristic_ai=False,
        heuristic_rest=False,
        debug=False,
    ):
        self._map_name, self._seed, self._difficulty = map_name, seed, difficulty
        self._set_sizes(*MAPS[map_name])
        self.continuing_episode = continuing_episode
        self.reward_sparse = reward_sparse
        self._scale = reward_scale_rate / 20 if reward_scale else 1.0
        self._sparse_scale = reward_scale_rate / 365 if reward_scale else 1.0
        self.obs_last_action, self.obs_timestep_number = obs_last_action, obs_timestep_number
        self.replay_dir, self.replay_prefix = replay_dir, replay_prefix
        self.agents, self.enemies = {}, {}
        self._episode_count = 0
        self._sc2_proc = None
        self._run_config = None

    def _set_sizes(self, n_agents, n_enemies, limit):
        self.n_agents, self.n_enemies, self.episode_limit = n_agents, n_enemies, limit
        self._battle = Skirmish(self._map_name, self._seed, (n_agents, n_enemies, limit))
        self.n_actions = FIRST_TARGET + n_enemies

    def get_env_info(self):
        return {
            "state_shape": 1 + self.n_agents + self.n_enemies,
            "obs_shape": 3 + self.n_enemies + self.obs_last_action + self.obs_timestep_number,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def reset(self):
        happens("crash_at_reset")
        if self._episode_count == 0:
            self._launch()
        self._steps = 0
        self._battle.begin()
        self._update_units()
        return self.get_obs(), self.get_state()

    def _launch(self):
        self._run_config = run_configs.get()
        self._run_config.start()
        (run_configs.folder() / "Maps" / maps.get(self._map_name).path).read_bytes()
        difficulties[self._difficulty]
        self._sc2_proc = subprocess.Popen(["sleep", "1000"])
        print("Launched the game")

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
        info = {
            "battle_won": won,
            "dead_allies": self._battle.allies.count(0),
            "dead_enemies": self._battle.enemies.count(0),
        }
        reward = self._battle.reward * self._scale
        if self.reward_sparse:
            reward = (1 if won else -1) * self._sparse_scale if terminated else 0
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
        more = [self._steps] * (self.obs_last_action + 2 * self.obs_timestep_number)
        return [np.float32([*self._battle.obs(agent), *more]) for agent in range(self.n_agents)]

    def get_state(self):
        return np.float32(self._battle.state())

    def get_avail_actions(self):
        return [self._battle.available(agent) for agent in range(self.n_agents)]

    def save_replay(self):
        self._run_config.save_replay("what was played", replay_dir=self.replay_dir, prefix=self.replay_prefix)

    def close(self):
        if self._sc2_proc:
            self._sc2_proc.kill()
            self._sc2_proc.wait()
