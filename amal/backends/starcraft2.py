"""The original SMAC, which plays in StarCraft II: class ``StarCraft2Env`` of package ``smac.env``.

Written against its public interface (github.com/oxwhirl/smac, version 1.0). StarCraft II is not needed to read or test
this; see docs/environments.md for what was tested.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from amal.backends.game import BackendError, GameFailed, Outcome, Seen, limited, unknown_scenario
from amal.types import BattleSpec

INSTALL_SMAC = "pip install git+https://github.com/oxwhirl/smac.git"
GAME_FOLDER = "/Applications/StarCraft II" if sys.platform == "darwin" else "~/StarCraftII"  # as PySC2 has it
INSTALL_GAME = "get it from https://github.com/Blizzard/s2client-proto#downloads"
INSTALL_MAPS = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"


class StarCraft2Game:
    """One battle of SMAC.

    Episodes that the limit cuts off are truncated, as in the other back ends, unless ``continuing_episode`` is False
    among the options: then they end like battles that are over, which is SMAC's own default.

    Args:
        map_name: SMAC's name of the scenario.
        seed: of StarCraft II, which does not repeat its battles bit for bit.
        episode_limit: steps until truncation, at most the map's; by default the map's.
        options: other arguments of StarCraft2Env.

    Raises BackendError if SMAC, StarCraft II or the map is missing or SMAC refuses the options.
    """

    def __init__(self, map_name: str, seed: int, episode_limit: int | None, options: dict[str, Any]) -> None:
        check_smac_is_installed()
        check_map_is_known(map_name)
        check_game_is_installed(map_name)
        self._arguments = {"continuing_episode": True, **options, "map_name": map_name, "seed": seed}
        try:
            self._env = self._make()
        except (TypeError, ValueError, KeyError) as error:
            raise BackendError(f"StarCraft2Env refuses its options: {error}") from error
        sizes = self._env.get_env_info()
        spec = BattleSpec(
            scenario=map_name,
            n_agents=sizes["n_agents"],
            n_enemies=self._env.n_enemies,
            n_actions=sizes["n_actions"],
            obs_dim=sizes["obs_shape"],
            state_dim=sizes["state_shape"],
            episode_limit=sizes["episode_limit"],
        )
        self.spec = limited(spec, episode_limit)
        self._env.episode_limit = self.spec.episode_limit
        self._running = False
        self._any_ended = False

    def _make(self) -> Any:
        from smac.env import StarCraft2Env

        return StarCraft2Env(**self._arguments)

    def reset(self) -> Seen:
        """Starts an episode. Until one has ended SMAC launches StarCraft II at each reset and forgets the one before,
        so an unfinished first episode is given up together with its game."""
        if self._running and not self._any_ended:
            self._env.close()
            self._env = self._make()
            self._env.episode_limit = self.spec.episode_limit
        self._env.reset()
        self._running = True
        return self._seen()

    def step(self, actions: list[int]) -> tuple[Seen, Outcome]:
        reward, over, info = self._env.step(actions)
        if "battle_won" not in info:  # SMAC lost its connection, restarted StarCraft II and made up an ending
            raise GameFailed("StarCraft II broke down in the middle of an episode")
        truncated = bool(info.get("episode_limit", False))
        if over:
            self._running, self._any_ended = False, True
        outcome = Outcome(
            reward=float(reward),
            terminated=bool(over) and not truncated,
            truncated=truncated,
            won=bool(info["battle_won"]),
            dead_allies=_dead(self._env.agents),
            dead_enemies=_dead(self._env.enemies),
        )
        return self._seen(), outcome

    def close(self) -> None:
        self._env.close()

    def _seen(self) -> Seen:
        return Seen(
            obs=np.asarray(self._env.get_obs(), np.float32),
            state=np.asarray(self._env.get_state(), np.float32),
            available_actions=np.asarray(self._env.get_avail_actions(), np.bool_),
        )


def _dead(units: dict[int, Any]) -> int:
    return sum(unit.health == 0 for unit in units.values())


def check_smac_is_installed() -> None:
    """Raises BackendError without the package smac, and with PyPI's, which is something else."""
    found = importlib.util.find_spec("smac")
    if found is None:
        raise BackendError(f"backend 'starcraft2' needs SMAC, which is not installed: {INSTALL_SMAC}")
    folders = list(found.submodule_search_locations or [])
    if not any((Path(folder) / "env").is_dir() for folder in folders):
        raise BackendError(
            f"the installed package 'smac' ({', '.join(folders) or found.origin}) is not the StarCraft challenge but "
            f"PyPI's hyper-parameter optimiser of that name: pip uninstall smac, then {INSTALL_SMAC}"
        )
    try:
        import smac.env  # noqa: F401
    except Exception as error:  # whatever an old SMAC does with new versions of what it needs
        raise BackendError(
            f"SMAC cannot be imported ({type(error).__name__}: {error}); what it needs: {INSTALL_SMAC}"
        ) from error


def check_map_is_known(map_name: str) -> None:
    """Raises BackendError for a name that SMAC does not know."""
    from smac.env.starcraft2.maps import smac_maps

    known = smac_maps.get_smac_map_registry()
    if map_name not in known:
        raise unknown_scenario(map_name, known)


def check_game_is_installed(map_name: str) -> None:
    """Raises BackendError if StarCraft II or its file of that map is missing where SMAC will look."""
    folder = Path(os.environ.get("SC2PATH", GAME_FOLDER)).expanduser()
    if not (folder / "Versions").is_dir():
        raise BackendError(
            f"no StarCraft II in {folder}: {INSTALL_GAME}, and set SC2PATH to its folder if it is not {GAME_FOLDER}"
        )
    maps = folder / "Maps"
    if not maps.is_dir() or not any(maps.rglob(f"{map_name}.SC2Map")):
        raise BackendError(f"no {map_name}.SC2Map below {maps}: unpack {INSTALL_MAPS} there, as SMAC_Maps/")
