"""The original SMAClite: the Gymnasium environments ``smaclite/<scenario>-v0`` of package ``smaclite``.

Written against github.com/uoe-agents/smaclite at commit 0d6abbe. See docs/environments.md for what was tested.
"""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

import numpy as np

from amal.backends.game import BackendError, Outcome, Seen, nearest_name, unknown_scenario
from amal.types import BattleSpec

INSTALL = "pip install --no-deps git+https://github.com/uoe-agents/smaclite.git"
INSTALL_NEEDS = "pip install 'rtree>=1.1' scikit-learn pygame"  # the Rtree it pins has no wheel for Python 3.11
NAMESPACE = "smaclite"


class SMACliteGame:
    """One battle of SMAClite.

    Args:
        scenario: the id without ``smaclite/`` and ``-v0``.
        seed: given to the first reset.
        episode_limit: steps until truncation. SMAClite has no limit of its own.
        options: other arguments of its environment's constructor.

    Raises BackendError if SMAClite, the scenario or the limit is missing or the options are refused.
    """

    def __init__(self, scenario: str, seed: int, episode_limit: int | None, options: dict[str, Any]) -> None:
        self._env = _make(scenario, options)
        if episode_limit is None:
            raise BackendError(
                f"episode_limit: SMAClite ends no episode of {scenario!r} itself, give a number of steps"
            )
        battle = self._env.unwrapped
        self.spec = BattleSpec(
            scenario=scenario,
            n_agents=battle.n_agents,
            n_enemies=battle.n_enemies,
            n_actions=battle.n_actions,
            obs_dim=battle.obs_size,
            state_dim=battle.state_size,
            episode_limit=episode_limit,
        )
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
        battle = self._env.unwrapped
        outcome = Outcome(
            reward=float(reward),
            terminated=bool(terminated),
            truncated=not terminated and (bool(truncated) or self._steps >= self.spec.episode_limit),
            won=bool(info["battle_won"]),
            dead_allies=battle.n_agents - len(battle.agents),  # it lists the living
            dead_enemies=battle.n_enemies - len(battle.enemies),
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
        raise BackendError(f"backend 'smaclite' needs SMAClite, which is not installed: {INSTALL_NEEDS}; {INSTALL}")
    try:
        import gymnasium
        import smaclite  # noqa: F401  registers its ids
    except Exception as error:  # whatever an old SMAClite does with new versions of what it needs
        raise BackendError(
            f"SMAClite is installed but cannot be imported ({type(error).__name__}: {error}); "
            f"what it needs: {INSTALL_NEEDS}"
        ) from error
    env_id = f"{NAMESPACE}/{scenario}-v0"
    if env_id not in gymnasium.registry:
        known = [name[len(NAMESPACE) + 1 : -3] for name in gymnasium.registry if name.startswith(f"{NAMESPACE}/")]
        raise unknown_scenario(scenario, known)
    try:
        # neither Gymnasium's checks, which slow each step down, nor a limit of its own stand between
        env = gymnasium.make(env_id, disable_env_checker=True, **options)
    except Exception as error:
        raise BackendError(f"{env_id} refuses its options: {type(error).__name__}: {error}") from error
    _refuse_unknown(options, env, env_id)
    return env


def _refuse_unknown(options: dict[str, Any], env: Any, env_id: str) -> None:
    """Raises BackendError for an option that the constructor does not name; SMAClite ignores those in silence."""
    known = [
        parameter.name
        for parameter in inspect.signature(type(env.unwrapped)).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for name in options:
        if name not in known:
            raise BackendError(f"{env_id} has no option {name!r}{nearest_name(name, known)}; known: {', '.join(known)}")
