"""SMACWrapper: one battle as dictionaries by agent id, with the reward options that users of SMAC know."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from amal import backends
from amal.backends.battles import EpisodeLost, WorkerBattles, refuse_random_delay
from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.battle.entries import nearest
from amal.battle.rewards import FLAWLESS_RETURN, VICTORY_REWARD
from amal.battle.scenario import in_this_form
from amal.runtime.argument_checks import check_flag
from amal.types import Battles, BattleSpec

BACKENDS = ("embedded", *backends.BACKENDS)


@dataclass(frozen=True)
class RewardOptions:
    """What SMACWrapper's reward options, described there, make of the simulator's rewards."""

    reward_win: float = VICTORY_REWARD
    reward_scale_rate: float = FLAWLESS_RETURN
    reward_sparse: bool = False

    def __post_init__(self) -> None:
        check_flag(reward_sparse=self.reward_sparse)
        for name in ("reward_win", "reward_scale_rate"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if not 0 <= self.reward_win < math.inf:
            raise ValueError(f"reward_win must be finite and at least 0, got {self.reward_win}")
        if not 0 < self.reward_scale_rate < math.inf:
            raise ValueError(f"reward_scale_rate must be finite and above 0, got {self.reward_scale_rate}")

    def applied(self, reward: float, scale: float, done: bool, won: bool, truncated: bool) -> float:
        """The simulator's reward under these options; ``scale`` is what it divided its points by."""
        if self.reward_sparse:
            return 0.0 if truncated or not done else 1.0 if won else -1.0
        if self.reward_win == VICTORY_REWARD and self.reward_scale_rate == FLAWLESS_RETURN:
            return reward  # untouched, so that not even its last bit changes
        points = reward * scale
        most = scale * FLAWLESS_RETURN - VICTORY_REWARD + self.reward_win
        if won:
            points += self.reward_win - VICTORY_REWARD
        return points * self.reward_scale_rate / most


class SMACWrapper:
    """One battle at a time. Every agent gets the team's reward; a dead agent's only action is 0, no-op.

    Args:
        scenario_name: a name from scenarios.yaml, the path of a YAML file, or a name of the back end's own.
        seed: of the battles; in the embedded simulator equal seeds and actions make equal battles.
        backend: what runs the battle: 'embedded', the compiled simulator; 'starcraft2', the original SMAC; 'smacv2',
            the original SMACv2; or 'smaclite', the original SMAClite, which has no reward options. The originals run in
            a process of their own, which ends with ``close`` or with this object.
        reward_win: points for a victory, beside 10 per enemy killed and 1 per point of its hp and shield taken.
        reward_scale_rate: points are scaled so that a flawless victory over enemies that do not recover is worth this.
        reward_sparse: rewards of 1 for a victory, -1 for a defeat and 0 otherwise, in place of all points; the other
            reward options are then without effect.
        episode_limit: steps until the episode is cut off; by default the scenario's.
        random_delay: of shots, in the embedded simulator; see ``VectorBattle``.
        options: other arguments of the back end's constructor; the embedded simulator has none.

    Raises BackendError, a ValueError, if a back end cannot be used as it is installed.
    """

    def __init__(
        self,
        scenario_name: str,
        seed: int = 0,
        backend: str = "embedded",
        *,
        reward_win: float = VICTORY_REWARD,
        reward_scale_rate: float = FLAWLESS_RETURN,
        reward_sparse: bool = False,
        episode_limit: int | None = None,
        random_delay: bool | Sequence[int] = False,
        **options: Any,
    ) -> None:
        if not isinstance(backend, str) or backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}{nearest(backend, BACKENDS)}; known: {', '.join(BACKENDS)}")
        rewards = RewardOptions(reward_win, reward_scale_rate, reward_sparse)
        self._battle: Battles
        if backend == "embedded":
            if options:
                option = next(iter(options))
                raise TypeError(f"backend 'embedded' has no option {option!r}{in_this_form(option)}")
            self._battle = VectorBattle(
                scenario_name, 1, seed, auto_reset=False, episode_limit=episode_limit, random_delay=random_delay
            )
        else:
            refuse_random_delay(backend, random_delay)
            if backend != "smaclite":
                options |= asdict(rewards)
            elif rewards != RewardOptions():
                raise ValueError(f"backend {backend!r} has no reward options")
            self._battle = WorkerBattles(backend, scenario_name, 1, seed, episode_limit, options)
        self._rewards = rewards
        self._running = False
        self._ever_reset = False
        self._length, self._return = 0, 0.0  # of the current episode
        self._battles, self._wins, self._timeouts = 0, 0, 0
        self._total_length, self._total_return = 0, 0.0

    @property
    def spec(self) -> BattleSpec:
        """Sizes of observations, states and actions, and the episode limit in force."""
        return self._battle.spec

    @property
    def scenario(self) -> Scenario:
        """Units, terrain and the names of the features; only the embedded simulator tells them."""
        if not isinstance(self._battle, VectorBattle):
            raise AttributeError("only the embedded simulator tells its scenario")
        return self._battle.scenario

    @property
    def available_actions(self) -> np.ndarray:
        """[N, A] bool: what each agent may do now."""
        return self._battle.available_actions[0].copy()

    def reset(self) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Starts an episode. Returns observations [O] by agent and the state [S], float32."""
        self._battle.reset()
        self._running = self._ever_reset = True
        self._length, self._return = 0, 0.0
        return self._obs(), self._battle.state[0].copy()

    def step(self, actions: Mapping[int, int]) -> tuple[dict[int, np.ndarray], dict[int, float], bool, dict[str, Any]]:
        """Plays half a second of battle with one action for every agent, dead ones included.

        Returns observations [O] by agent, rewards by agent, whether the episode is over, and info: state [S],
        available_actions [N, A] bool, battle_won, truncated, dead_allies, dead_enemies, and episode_limit, SMAC's
        name for truncated: whether the limit, not the battle, ended the episode.

        Raises RuntimeError outside an episode, ValueError for anything but an action of every agent, UnavailableAction,
        and in other back ends EpisodeLost when the simulator broke down (it was started again: reset) and
        WorkerFailure when it will not be started again.
        """
        if not self._running:
            raise RuntimeError(f"{'the episode is over' if self._ever_reset else 'no episode has begun'}: call reset()")
        battle = self._battle
        joint = self._joint_action(actions)
        try:
            battle.step(joint)
        except EpisodeLost:
            self._running = False
            raise
        won, truncated = bool(battle.won[0]), bool(battle.truncated[0])
        done = truncated or bool(battle.terminated[0])
        reward = float(battle.rewards[0])
        if isinstance(battle, VectorBattle):  # others have applied the options themselves
            reward = self._rewards.applied(reward, battle.scene.reward_scale, done, won, truncated)
        self._length += 1
        self._return += reward
        if done:
            self._running = False
            self._battles += 1
            self._wins += won
            self._timeouts += truncated
            self._total_length += self._length
            self._total_return += self._return
        info = {
            "state": battle.state[0].copy(),
            "available_actions": self.available_actions,
            "battle_won": won,
            "truncated": truncated,
            "dead_allies": int(battle.dead("ally")[0]),
            "dead_enemies": int(battle.dead("enemy")[0]),
            "episode_limit": truncated,
        }
        return self._obs(), dict.fromkeys(range(self.spec.n_agents), reward), done, info

    def get_stats(self) -> dict[str, float]:
        """Of all episodes played to their end since construction; rates and means are NaN before the first."""
        n = self._battles or math.nan
        return {
            "battles_played": float(self._battles),
            "battles_won": float(self._wins),
            "win_rate": self._wins / n,
            "mean_return": self._total_return / n,
            "mean_length": self._total_length / n,
            "timeouts": float(self._timeouts),
        }

    def close(self) -> None:
        """Ends the back end's process, if it has one."""
        if isinstance(self._battle, WorkerBattles):
            self._battle.close()

    def _obs(self) -> dict[int, np.ndarray]:
        return {agent: obs.copy() for agent, obs in enumerate(self._battle.obs[0])}

    def _joint_action(self, actions: Mapping[int, int]) -> np.ndarray:
        """[1, N] int64."""
        if not isinstance(actions, Mapping):
            raise ValueError(f"actions must be a mapping of agents to actions, got {type(actions).__name__}")
        agents = range(self.spec.n_agents)
        missing = [agent for agent in agents if agent not in actions]
        unknown = [agent for agent in actions if agent not in agents]
        if missing or unknown:
            wrong = [f"missing {missing}"] * bool(missing) + [f"unknown {unknown}"] * bool(unknown)
            raise ValueError(f"actions must be given for agents 0 to {len(agents) - 1}: {', '.join(wrong)}")
        joint = np.empty((1, len(agents)), np.int64)
        for agent in agents:
            action = actions[agent]
            try:
                if isinstance(action, bool):
                    raise TypeError
                joint[0, agent] = operator.index(action)
            except TypeError:
                raise ValueError(f"agent {agent}: an action is a whole number, got {action!r}") from None
            except OverflowError:
                most = self.spec.n_actions - 1
                raise ValueError(f"agent {agent}: an action is from 0 to {most}, got {action}") from None
        return joint
