"""The original SMAC, which plays in StarCraft II: class ``StarCraft2Env`` of package ``smac.env``.

Written against github.com/oxwhirl/smac, version 1.0. StarCraft II is not needed to read or test this; see
docs/environments.md for what was tested.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from amal.backends.game import BackendError, GameFailed, Outcome, Seen, limited, unknown_scenario
from amal.types import BattleSpec

GAME_FOLDER = "/Applications/StarCraft II" if sys.platform == "darwin" else "~/StarCraftII"  # as PySC2 has it
BINARY = "SC2.app/Contents/MacOS/SC2" if sys.platform == "darwin" else "SC2_x64"
INSTALL_NEEDS = "pip install pysc2 s2clientprotocol"
INSTALL_GAME = "get it from https://github.com/Blizzard/s2client-proto#downloads"


class StarCraft2Game:
    """One battle of SMAC.

    Two defaults differ from SMAC's. Episodes that the limit cuts off are truncated, as in the other back ends, unless
    ``continuing_episode`` is False among the options: then they end like battles that are over. Sparse rewards are not
    scaled, unless ``reward_scale`` is True.

    Args:
        map_name: SMAC's name of the scenario.
        seed: of StarCraft II, which does not repeat its battles bit for bit.
        episode_limit: steps until truncation, at most the map's; by default the map's.
        options: other arguments of StarCraft2Env. With ``replay_dir`` the game saves a replay of all that it played
            when it is closed in good order.

    Raises BackendError if SMAC, StarCraft II or the map is missing or SMAC refuses the options.
    """

    backend, title, package = "starcraft2", "SMAC", "smac"
    maps_at = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"

    def __init__(self, map_name: str, seed: int, episode_limit: int | None, options: dict[str, Any]) -> None:
        self.check_is_installed()
        self.check_map_is_known(map_name)
        self.check_options(map_name, options)
        self.check_game_is_installed(map_name, options.get("game_version"))
        self._arguments = self._with_defaults(options) | {"map_name": map_name, "seed": seed}
        if self._saves_replays:  # their files are named after the second
            self._arguments["replay_prefix"] = f"{options.get('replay_prefix') or map_name}_{seed}"
        try:
            self._env = self._make()
        except Exception as error:
            raise BackendError(f"{self.title} refuses its options: {type(error).__name__}: {error}") from error
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
        self._limit_episodes()
        self._launched = self._running = self._any_ended = False

    def _make(self) -> Any:
        return importlib.import_module(f"{self.package}.env").StarCraft2Env(**self._arguments)

    def _limit_episodes(self) -> None:
        self._env.episode_limit = self.spec.episode_limit

    def reset(self) -> Seen:
        """Starts an episode. Until one has ended SMAC launches StarCraft II at each reset and forgets the one before,
        so an unfinished first episode is given up together with its game."""
        if self._running and not self._any_ended:
            self._env.close()
            self._env = self._make()
            self._limit_episodes()
        self._env.reset()
        self._launched = self._running = True
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
            dead_allies=int(info["dead_allies"]),
            dead_enemies=int(info["dead_enemies"]),
        )
        return self._seen(), outcome

    def close(self) -> None:
        try:
            if self._launched and self._saves_replays:
                self._env.save_replay()
        finally:
            self._env.close()

    @property
    def _saves_replays(self) -> bool:
        return bool(self._arguments.get("replay_dir"))

    def _seen(self) -> Seen:
        return Seen(
            obs=np.asarray(self._env.get_obs(), np.float32),
            state=np.asarray(self._env.get_state(), np.float32),
            available_actions=np.asarray(self._env.get_avail_actions(), np.bool_),
        )

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        """SMAC scales rewards of 1 and -1 too, and has its difficulties as strings, which YAML reads as numbers."""
        arguments = {"continuing_episode": True, "reward_scale": not options.get("reward_sparse", False), **options}
        if "difficulty" in options:
            arguments["difficulty"] = str(options["difficulty"])
        return arguments

    @classmethod
    def check_is_installed(cls) -> None:
        """Raises BackendError if the package is missing or cannot be imported."""
        found = importlib.util.find_spec(cls.package)
        if found is None:
            needs = f"backend {cls.backend!r} needs {cls.title}, which is not installed"
            raise BackendError(f"{needs}: {INSTALL_NEEDS}; {cls.install()}")
        folders = list(found.submodule_search_locations or [])
        if not any((Path(folder) / "env").is_dir() for folder in folders):
            other = " but PyPI's hyper-parameter optimiser of that name" if cls.package == "smac" else ""
            raise BackendError(
                f"the installed package {cls.package!r} ({', '.join(folders) or found.origin}) is not the StarCraft "
                f"challenge{other}: pip uninstall {cls.package}, then {cls.install()}"
            )
        try:
            importlib.import_module(f"{cls.package}.env")
        except Exception as error:  # whatever an old SMAC does with new versions of what it needs
            raise BackendError(
                f"{cls.title} is installed but cannot be imported ({type(error).__name__}: {error}); what it needs: "
                f"{INSTALL_NEEDS}"
            ) from error

    @classmethod
    def install(cls) -> str:
        """The command. Its dependencies, left out, would replace protobuf by one that wandb cannot be imported with."""
        return f"pip install --no-deps git+https://github.com/oxwhirl/{cls.package}.git"

    @classmethod
    def check_map_is_known(cls, map_name: str) -> None:
        """Raises BackendError for a name that the package does not know."""
        known = cls.map_registry()
        if map_name not in known:
            raise unknown_scenario(map_name, known)

    @classmethod
    def map_registry(cls) -> dict[str, dict[str, Any]]:
        """What the package knows of each map."""
        return importlib.import_module(f"{cls.package}.env.starcraft2.maps.smac_maps").get_smac_map_registry()

    @classmethod
    def check_options(cls, map_name: str, options: dict[str, Any]) -> None:
        """Raises BackendError for what would fail only when the game is launched."""
        difficulties = importlib.import_module(f"{cls.package}.env.starcraft2.starcraft2").difficulties
        if str(options.get("difficulty", "7")) not in difficulties:
            allowed = ", ".join(difficulties)
            raise BackendError(f"difficulty must be one of {allowed}, got {options['difficulty']!r}")
        if cls.package == "smac" and options.get("obs_timestep_number"):
            raise BackendError(
                "obs_timestep_number: SMAC's observations are longer with it than SMAC says, so it cannot be used; "
                "state_timestep_number can"
            )

    @classmethod
    def check_game_is_installed(cls, map_name: str, game_version: Any) -> None:
        """Raises BackendError if StarCraft II, in that version, or its file of that map is missing where PySC2 will
        look."""
        from pysc2 import maps, run_configs

        folder = Path(os.environ.get("SC2PATH", GAME_FOLDER)).expanduser()
        if not (folder / "Versions").is_dir():
            raise BackendError(
                f"no StarCraft II in {folder}: {INSTALL_GAME}, and set SC2PATH to its folder if it is not {GAME_FOLDER}"
            )
        if not isinstance(game_version, str | None):
            raise BackendError(f"game_version must be a string, got {game_version!r}: put it in quotes")
        try:
            build = run_configs.get(version=game_version).version.build_version
        except Exception as error:
            raise BackendError(f"StarCraft II in {folder} cannot be used: {error}") from error
        binary = folder / "Versions" / f"Base{build:05d}" / BINARY
        if not (binary.is_file() and os.access(binary, os.X_OK)):
            raise BackendError(f"no executable file {binary}: {INSTALL_GAME}")
        map_file = folder / "Maps" / maps.get(map_name).path
        if not map_file.is_file():
            raise BackendError(f"no map {map_file}: unpack {cls.maps_at} there")
