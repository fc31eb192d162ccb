"""One battle as a Gymnasium environment with SMAClite's interface, registered as ``amal/<scenario>-v0``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from amal.battle import UnavailableAction, VectorBattle
from amal.battle.arguments import checked_actions
from amal.battle.scenario import load_scenario, scenario_names
from amal.runtime.argument_checks import check_flag, check_whole

NAMESPACE = "amal"


class BattleEnv(gymnasium.Env[tuple[np.ndarray, ...], Any]):
    """One battle for a team with one reward. ``amal/<scenario>-v0`` makes it.

    Observations are a tuple of N arrays [O] float32, actions a sequence of N whole numbers, one per agent. A dead agent
    observes zeros and its only action is 0, no-op. A seed makes the episodes that it makes in the other interfaces.

    Args:
        scenario: a name from scenarios.yaml, or the path of a YAML file.
        seed: of the battles, until ``reset`` gets another; by default a random one.
        episode_limit: steps until truncation; by default the scenario's.
        random_delay: of shots; see ``VectorBattle``.
        strict: raise UnavailableAction where an agent cannot take its action now, rather than have it stop (no-op if
            it is dead) and count it in ``info["unavailable_actions"]``.
        use_cpp_rvo2: without effect, for clients of SMAClite that pass it.
        render_mode: None, for clients that pass it; battles are drawn by ``amal replay``.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        scenario: str,
        seed: int | None = None,
        *,
        episode_limit: int | None = None,
        random_delay: bool | Sequence[int] = False,
        strict: bool = False,
        use_cpp_rvo2: bool = False,
        render_mode: None = None,
    ) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}")
        check_flag(strict=strict)
        self.scenario = load_scenario(scenario, random_delay=random_delay)
        self.strict = strict
        if seed is not None:
            super().reset(seed=_checked_seed(seed))
        self._battle = self._first_battle(episode_limit)
        spec = self._battle.spec
        self.n_agents, self.n_enemies, self.n_actions = spec.n_agents, spec.n_enemies, spec.n_actions
        self.obs_size, self.state_size = spec.obs_dim, spec.state_dim
        self.episode_limit = spec.episode_limit
        self.observation_space = spaces.Tuple([spaces.Box(-1.0, 1.0, (self.obs_size,)) for _ in range(self.n_agents)])
        self.state_space = spaces.Box(-1.0, 1.0, (self.state_size,))
        self.action_space = spaces.Tuple([spaces.Discrete(self.n_actions) for _ in range(self.n_agents)])
        self.stopped_agents: list[int] = []  # those whose last action was not available
        self._running = False
        features = enumerate(self.scenario.state_features())
        self._enemy_hp = [k for k, name in features if name.startswith("enemy") and name.endswith(".hp")]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
        """Starts an episode. Returns observations, N times [O], and info as of ``step``.

        Args:
            seed: starts the battles of this seed from the first; without one the next battle begins.
            options: without effect.
        """
        super().reset(seed=_checked_seed(seed))
        if seed is None:
            self._battle.reset()
        else:
            self._battle = self._first_battle(self.episode_limit)
        self._running = True
        self.stopped_agents = []
        return self.get_obs(), self._info()

    def step(self, action: Sequence[int]) -> tuple[tuple[np.ndarray, ...], float, bool, bool, dict[str, Any]]:
        """Plays half a second of battle with one action for every agent, dead ones included.

        Returns observations, N times [O], the team's reward, whether the battle is over, whether the limit cut it off
        (never both), and info, numbers alone: battle_won, dead_allies, dead_enemies, unavailable_actions (how many
        agents stopped instead), and episode_limit, SMAC's name for truncated.

        Raises RuntimeError outside an episode, ValueError for anything but N actions from 0 to A - 1, and, if strict,
        UnavailableAction. In each case nothing was stepped.
        """
        if not self._running:
            raise RuntimeError("no episode is running: call reset()")
        try:
            joint = checked_actions(action, (self.n_agents,))
        except ValueError:
            allowed = f"{self.n_agents} whole numbers, one for every agent"
            raise ValueError(f"actions must be {allowed}, got {action!r}") from None
        battle = self._battle
        self.stopped_agents = []
        try:
            battle.step(joint[None])
        except UnavailableAction:
            if self.strict:
                raise
            battle.step(self._stop_where_unavailable(joint)[None])
        terminated, truncated = bool(battle.terminated[0]), bool(battle.truncated[0])
        self._running = not (terminated or truncated)
        return self.get_obs(), float(battle.rewards[0]), terminated, truncated, self._info()

    def get_obs(self) -> tuple[np.ndarray, ...]:
        """N times [O] float32."""
        return tuple(self._battle.obs[0].copy())

    def get_state(self) -> np.ndarray:
        """[S] float32: all units and the last joint action, for centralised training."""
        return self._battle.state[0].copy()

    def get_avail_actions(self) -> list[list[int]]:
        """N times A zeros and ones: what each agent may do now."""
        return self._battle.available_actions[0].view(np.int8).tolist()

    def get_action_mask(self) -> np.ndarray:
        """[N, A] int8, what ``get_avail_actions`` says, in the kind that ``Discrete.sample`` takes."""
        return self._battle.available_actions[0].astype(np.int8)

    def _first_battle(self, episode_limit: int | None) -> VectorBattle:
        """The first battle of the current seed, or of one drawn by Gymnasium if none was given."""
        return VectorBattle(self.scenario, 1, self.np_random_seed, auto_reset=False, episode_limit=episode_limit)

    def _stop_where_unavailable(self, joint: np.ndarray) -> np.ndarray:
        """[N]: actions with stop, or no-op for the dead, in place of those that cannot be taken."""
        available = self._battle.available_actions[0]
        for agent, action in enumerate(joint.tolist()):
            if not 0 <= action < self.n_actions:
                raise ValueError(f"agent {agent}: an action is from 0 to {self.n_actions - 1}, got {action}")
        can = available[np.arange(self.n_agents), joint]
        self.stopped_agents = np.flatnonzero(~can).tolist()
        return np.where(can, joint, available.argmax(axis=1))

    def _info(self) -> dict[str, Any]:
        """Numbers alone: clients of SMAClite add them up over an episode.

        The dead are counted in what agents and critics see, for ``VectorBattle.dead`` takes half as long as a step.
        """
        battle = self._battle
        return {
            "battle_won": bool(battle.won[0]),
            "dead_allies": int(np.count_nonzero(battle.available_actions[0, :, 0])),
            "dead_enemies": self.n_enemies - int(np.count_nonzero(battle.state[0, self._enemy_hp])),
            "unavailable_actions": len(self.stopped_agents),
            "episode_limit": bool(battle.truncated[0]),
        }


def _checked_seed(seed: int | None) -> int | None:
    """Gymnasium takes Python's integers only, and refuses others in words of its own."""
    if seed is None:
        return None
    check_whole(0, seed=seed)
    return int(seed)


def register_scenarios() -> list[str]:
    """Registers every scenario that ships and returns the ids."""
    return [_register(name, name) for name in scenario_names()]


def register_scenario(path: str) -> str:
    """Registers the scenario in a YAML file, ``amal/<file's stem>-v0``, and returns the id. Raises ScenarioError."""
    scenario = load_scenario(path)
    return _register(scenario.name, scenario.reference)


def _register(name: str, reference: str) -> str:
    """The limit of an episode is not given to Gymnasium, whose own limit would call a battle truncated that ends in its
    last step."""
    env_id = f"{NAMESPACE}/{name}-v0"
    gymnasium.registry.pop(env_id, None)  # Gymnasium would warn that it is there already
    gymnasium.register(env_id, entry_point=f"{__name__}:{BattleEnv.__name__}", kwargs={"scenario": reference})
    return env_id
