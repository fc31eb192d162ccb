"""SMACv2's StarCraft2Env: like SMAC's, with as many units as its capabilities say."""

from smac.env.starcraft2 import starcraft2

difficulties = starcraft2.difficulties


class StarCraft2Env(starcraft2.StarCraft2Env):
    def __init__(self, capability_config=None, **arguments):
        super().__init__(**arguments)
        if "team_gen" in capability_config:
            team = capability_config["team_gen"]
            self._set_sizes(team["n_units"], team["n_enemies"], self.episode_limit)

    def reset(self, episode_config=None):
        return super().reset()
