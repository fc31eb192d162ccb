"""Stands in for the original SMAClite, which cannot be installed where the tests run: its ids and interface, with the
embedded simulator's battles."""

import gymnasium
from faults import happens

from amal.battle.scenario import scenario_names
from amal.envs.gymnasium import BattleEnv


class SMACliteEnv(BattleEnv):
    def __init__(self, map_name, use_cpp_rvo2=False, render_mode=None):
        super().__init__(map_name, strict=True)

    def step(self, actions):
        happens("crash")
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward, terminated, truncated, {name: info[name] for name in INFO}


INFO = ("battle_won", "dead_allies", "dead_enemies")
for name in scenario_names():
    gymnasium.register(f"smaclite/{name}-v0", entry_point=SMACliteEnv, kwargs={"map_name": name})
