"""Stands in for the original SMAClite: its ids and interface, with a game of its own.

Habits kept: no limit of steps, neither as an attribute nor registered; the info says only whether the battle was won;
the units are dicts of the living; options it does not know are ignored; actions are ints and nothing else; a reset
without a seed goes on in the same random stream. It lacks some of SMAC's scenarios, 3m and 5m_vs_6m among them.
"""

import gymnasium
from faults import happens
from skirmish import FIRST_TARGET, MAPS, Skirmish


class SMACliteEnv(gymnasium.Env):
    metadata = {"render_modes": ["human", "rgb_array"]}

    def __init__(self, map_info=None, map_file=None, seed=None, use_cpp_rvo2=False, render_mode="human", **kwargs):
        if map_info is None and map_file is None:
            raise ValueError("Either map_info or map_file must be provided.")
        self._map_name = map_info
        self._skirmish = Skirmish(map_info, seed)
        self.n_agents, self.n_enemies, _ = MAPS[map_info]
        self.agents, self.enemies = [], []
        self.n_actions = FIRST_TARGET + self.n_enemies
        self.obs_size, self.state_size = 3 + self.n_enemies, 1 + self.n_agents + self.n_enemies

    def reset(self, seed=None, options=None):
        if seed is not None:
            self._skirmish = Skirmish(self._map_name, seed)
        self._skirmish.begin()
        self._update_units()
        return self.get_obs(), {"battle_won": False}

    def step(self, actions):
        happens("crash")
        assert all(type(action) is int for action in actions)
        battle = self._skirmish
        battle.play(actions)
        self._update_units()
        return self.get_obs(), float(battle.reward), battle.decided, False, {"battle_won": battle.won}

    def _update_units(self):
        battle = self._skirmish
        self.agents = {k: object() for k, health in enumerate(battle.allies) if health > 0}
        self.enemies = {k: object() for k, health in enumerate(battle.enemies) if health > 0}

    def get_obs(self):
        return tuple(self._skirmish.obs(agent) for agent in range(self.n_agents))

    def get_state(self):
        return self._skirmish.state()

    def get_avail_actions(self):
        return [self._skirmish.available(agent) for agent in range(self.n_agents)]


for name in ("2s3z", "10m_vs_11m"):
    gymnasium.register(f"smaclite/{name}-v0", entry_point=SMACliteEnv, kwargs={"map_info": name})
gymnasium.register("smaclite/custom-v0", entry_point=SMACliteEnv)
