"""Stands in for the original SMAClite, which cannot be installed where the tests run: its ids and interface, with a
game of its own. Like the original it goes on in the same random stream at a reset without a seed, and Gymnasium's
limit cuts off whatever the battle does in that step."""

import gymnasium
import numpy as np
from faults import happens
from skirmish import FIRST_TARGET, MAPS, Skirmish


class SMACliteEnv(gymnasium.Env):
    def __init__(self, map_name, use_cpp_rvo2=False, render_mode=None):
        self._map_name = map_name
        self._skirmish = Skirmish(map_name, None)
        self.n_agents, self.n_enemies, self.episode_limit = MAPS[map_name]
        self.n_actions = FIRST_TARGET + self.n_enemies
        self.obs_size, self.state_size = 3 + self.n_enemies, 1 + self.n_agents + self.n_enemies

    def reset(self, seed=None, options=None):
        if seed is not None:
            self._skirmish = Skirmish(self._map_name, seed)
        self._skirmish.begin()
        return self._obs(), {}

    def step(self, actions):
        happens("crash")
        battle = self._skirmish
        battle.play(actions)
        info = {
            "battle_won": battle.won,
            "dead_allies": battle.allies.count(0),
            "dead_enemies": battle.enemies.count(0),
        }
        return self._obs(), float(battle.reward), battle.decided, battle.steps >= self.episode_limit, info

    def _obs(self):
        return tuple(np.float32(self._skirmish.obs(agent)) for agent in range(self.n_agents))

    def get_state(self):
        return np.float32(self._skirmish.state())

    def get_avail_actions(self):
        return [self._skirmish.available(agent) for agent in range(self.n_agents)]


for name in MAPS:
    gymnasium.register(f"smaclite/{name}-v0", entry_point=SMACliteEnv, kwargs={"map_name": name})
