"""One battle as a PettingZoo parallel environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from amal.envs.gymnasium import BattleEnv

Observations = dict[str, np.ndarray]
Infos = dict[str, dict[str, Any]]


class ParallelBattleEnv(ParallelEnv[str, np.ndarray, int]):
    """One battle; agents are 'agent_0', 'agent_1', and so on, in the order of the other interfaces.

    All agents stay until the episode is over. A dead one observes zeros, may only take action 0, no-op, and goes on
    getting the team's reward. For it is the team that is rewarded, also for what follows from an agent's death; and
    libraries stack the agents of a team, so a fixed set needs no padding (TorchRL would end the episode with the first
    death).

    Args:
        scenario: a name from scenarios.yaml, or the path of a YAML file.
        seed: of the battles, until ``reset`` gets another; by default a random one.
        episode_limit: steps until truncation; by default the scenario's.
        random_delay: of shots; see ``VectorBattle``.
        strict: raise UnavailableAction where an agent cannot take its action now, rather than have it stop (no-op if
            it is dead) and say so in its info.
    """

    render_mode = None

    def __init__(
        self,
        scenario: str,
        seed: int | None = None,
        *,
        episode_limit: int | None = None,
        random_delay: bool | Sequence[int] = False,
        strict: bool = False,
    ) -> None:
        self._env = BattleEnv(scenario, seed, episode_limit=episode_limit, random_delay=random_delay, strict=strict)
        self.metadata = {"name": f"amal_{self._env.scenario.name}_v0", "render_modes": [], "is_parallelizable": True}
        self.possible_agents = [f"agent_{agent}" for agent in range(self._env.n_agents)]
        self.agents: list[str] = []
        self.observation_spaces = {
            agent: spaces.Box(-1.0, 1.0, (self._env.obs_size,)) for agent in self.possible_agents
        }
        self.action_spaces = {agent: spaces.Discrete(self._env.n_actions) for agent in self.possible_agents}
        self.state_space = self._env.state_space

    def observation_space(self, agent: str) -> spaces.Box:
        """[O] float32, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Discrete:
        """A actions, always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        """Starts an episode. Returns observations [O] float32 and infos as of ``step``, by agent.

        Args:
            seed: starts the battles of this seed from the first; without one the next battle begins.
            options: without effect.
        """
        obs, info = self._env.reset(seed=seed, options=options)
        self.agents = self.possible_agents[:]
        return dict(zip(self.agents, obs, strict=True)), self._infos(info["battle_won"])

    def step(
        self, actions: Mapping[str, int]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], Infos]:
        """Plays half a second of battle with one action for every agent, dead ones included.

        Returns, by agent: observations [O] float32, the team's reward, whether the battle is over, whether the limit
        cut it off (never both), and infos: action_mask [A] int8, battle_won, and unavailable_action, whether the agent
        stopped because it could not take its action.

        Raises RuntimeError outside an episode, ValueError for missing or unknown agents and for anything but whole
        actions from 0 to A - 1, and, if strict, UnavailableAction. In each case nothing was stepped.
        """
        team = self.possible_agents
        if not isinstance(actions, Mapping):
            raise ValueError(f"actions must be a mapping of agents to actions, got {type(actions).__name__}")
        if actions.keys() != self.action_spaces.keys():
            missing = [agent for agent in team if agent not in actions]
            unknown = [agent for agent in actions if agent not in self.action_spaces]
            raise ValueError(f"actions must be given for every agent: missing {missing}, unknown {unknown}")
        obs, reward, terminated, truncated, info = self._env.step([actions[agent] for agent in team])
        if terminated or truncated:
            self.agents = []
        return (
            dict(zip(team, obs, strict=True)),
            dict.fromkeys(team, reward),
            dict.fromkeys(team, terminated),
            dict.fromkeys(team, truncated),
            self._infos(info["battle_won"]),
        )

    def state(self) -> np.ndarray:
        """[S] float32: all units and the last joint action, for centralised training."""
        return self._env.get_state()

    def action_masks(self) -> np.ndarray:
        """[N, A] bool: which actions each agent can take now, under the name that sb3-contrib's MaskablePPO asks for.

        It stacks what its environments return and reads the result as a row per agent, environment by environment.
        Dead agents and all agents of a battle that is over have no-op alone.
        """
        return self._env.get_action_mask().astype(bool)

    def _infos(self, won: bool) -> Infos:
        stopped = self._env.stopped_agents
        return {
            name: {"action_mask": mask, "battle_won": won, "unavailable_action": agent in stopped}
            for agent, (name, mask) in enumerate(zip(self.possible_agents, self._env.get_action_mask(), strict=True))
        }


def parallel_env(
    scenario: str,
    seed: int | None = None,
    *,
    episode_limit: int | None = None,
    random_delay: bool | Sequence[int] = False,
    strict: bool = False,
) -> ParallelBattleEnv:
    """The PettingZoo environment of a scenario, under the name that PettingZoo's modules give to theirs."""
    return ParallelBattleEnv(scenario, seed, episode_limit=episode_limit, random_delay=random_delay, strict=strict)
