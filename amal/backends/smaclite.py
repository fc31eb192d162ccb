"""The original SMAClite: the Gymnasium environments ``smaclite/<scenario>-v0`` of package ``smaclite``.

Written against its public interface; its sources were not read. See docs/environments.md for what was tested.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from amal.backends.game import BackendError, Outcome, Seen, limited, unknown_scenario
from amal.types import BattleSpec

INSTALL = "pip install git+https://github.com/uoe-agents/smaclite.git"
NAMESPACE = "smaclite"


class SMACliteGame:
    """One battle of SMAClite.

    Args:
        scenario: the id without ``smaclite/`` and ``-v0``.
        seed: given to the first reset.
        episode_limit: steps until truncation, at most the environment's; by default the environment's.
        options: other arguments of ``gymnasium.make``.

    Raises BackendError if SMAClite or the scenario is missing or the options are refused.
    """

    def __init__(self, scenario: str, seed: int, episode_limit: int | None, options: dict[str, Any]) -> None:
        self._env = _make(scenario, options)
        battle = self._env.unwrapped
        spec = BattleSpec(
            scenario=scenario,
            n_agents=battle.n_agents,
            n_enemies=battle.n_enemies,
            n_actions=battle.n_actions,
            obs_dim=battle.obs_size,
            state_dim=battle.state_size,
            episode_limit=battle.episode_limit,
        )
        self.spec = limited(spec, episode_limit)
        self._seed: int | None = seed
        self._steps = 0

    def reset(self) -> Seen:
        obs, _ = self._env.reset(seed=self._seed)
        self._seed, self._steps = None, 0  # the episodes after the first go on in the same random stream
        return self._seen(obs)

    def step(self, actions: list[int]) -> tuple[Seen, Outcome]:
        obs, reward, terminated, truncated, info = self._env.step(actions)
        self._steps += 1
        seen = self._seen(obs)
        outcome = Outcome(
            reward=float(reward),
            terminated=bool(terminated),
            truncated=not terminated and (bool(truncated) or self._steps >= self.spec.episode_limit),
            won=bool(info["battle_won"]),
            dead_allies=int(info["dead_allies"]),
            dead_enemies=int(info["dead_enemies"]),
        )
        return seen, outcome

    def close(self) -> None:
        self._env.close()

    def _seen(self, obs: Any) -> Seen:
        battle = self._env.unwrapped
        return Seen(
            obs=np.asarray(obs, np.float32),
            state=np.asarray(battle.get_state(), np.float32),
            available_actions=np.asarray(battle.get_avail_actions(), np.bool_),
        )


def _make(scenario: str, options: dict[str, Any]) -> Any:
    if importlib.util.find_spec("smaclite") is None:
        raise BackendError(f"backend 'smaclite' needs SMAClite, which is not installed: {INSTALL}")
    try:
        import gymnasium
        import smaclite  # noqa: F401  registers its ids
    except Exception as error:  # whatever an old SMAClite does with new versions of what it needs
        raise BackendError(f"SMAClite cannot be imported ({type(error).__name__}: {error}): {INSTALL}") from error
    env_id = f"{NAMESPACE}/{scenario}-v0"
    if env_id not in gymnasium.registry:
        known = [name[len(NAMESPACE) + 1 : -3] for name in gymnasium.registry if name.startswith(f"{NAMESPACE}/")]
        raise unknown_scenario(scenario, known)
    try:
        # neither Gymnasium's checks, which slow each step down, nor its limit of steps stand between
        return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (TypeError, ValueError, KeyError) as error:
        raise BackendError(f"{env_id} refuses its options: {error}") from error
