"""Environments: the simulator behind the interfaces that others know.

Importing this package registers the Gymnasium ids ``amal/<scenario>-v0``, all of which are in ``GYMNASIUM_IDS``.
"""

from amal.envs.gymnasium import BattleEnv, register_scenario, register_scenarios
from amal.envs.pettingzoo import ParallelBattleEnv, parallel_env
from amal.envs.smac import SMACWrapper

__all__ = ["GYMNASIUM_IDS", "BattleEnv", "ParallelBattleEnv", "SMACWrapper", "parallel_env", "register_scenario"]

GYMNASIUM_IDS = tuple(register_scenarios())
