"""The original SMACv2, which plays in StarCraft II: class ``StarCraftCapabilityEnvWrapper`` of package ``smacv2.env``.

Written against github.com/oxwhirl/smacv2 at commit 577ab5a. See docs/environments.md for what was tested.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

from amal.backends.game import BackendError
from amal.backends.starcraft2 import StarCraft2Game

EXAMPLES = "https://github.com/oxwhirl/smacv2/tree/main/smacv2/examples/configs"


class SMACv2Game(StarCraft2Game):
    """One battle of SMACv2, like one of SMAC.

    Args:
        options: arguments of StarCraft2Env, ``capability_config`` among them, which says what is drawn for every
            episode. SMACv2 draws it from random streams of its own, which take no seed.
    """

    backend, title, package = "smacv2", "SMACv2", "smacv2"
    maps_at = "https://github.com/oxwhirl/smacv2/tree/main/smacv2/env/starcraft2/maps/SMAC_Maps"

    def _make(self) -> Any:
        arguments = copy.deepcopy(self._arguments)  # SMACv2 writes into its configuration
        return importlib.import_module("smacv2.env").StarCraftCapabilityEnvWrapper(**arguments)

    def _limit_episodes(self) -> None:
        self._env.env.episode_limit = self.spec.episode_limit  # the wrapper only reads it from there

    @classmethod
    def check_options(cls, map_name: str, options: dict[str, Any]) -> None:
        super().check_options(map_name, options)
        capabilities = options.get("capability_config")
        if not isinstance(capabilities, dict):
            given = "is missing" if capabilities is None else f"must be a mapping, got {capabilities!r}"
            raise BackendError(f"capability_config {given} among the options of SMACv2; examples: {EXAMPLES}")
        for key in ("n_units", "n_enemies"):
            if key not in capabilities:
                raise BackendError(f"capability_config needs {key}; examples: {EXAMPLES}")
        file_name = cls.map_registry()[map_name]["map_name"]
        if file_name != map_name and "team_gen" not in capabilities:
            raise BackendError(
                f"capability_config needs team_gen: {map_name} is played on {file_name}, which has no units of its own"
            )
