"""Habits kept: it writes into the configuration that it is given; its attributes are those of the environment inside,
but not when they are set; its reset returns nothing if the first try failed."""

from faults import happens

from smacv2.env.starcraft2.starcraft2 import StarCraft2Env


class StarCraftCapabilityEnvWrapper:
    def __init__(self, **kwargs):
        config = kwargs["capability_config"]
        for key, capability in config.items():
            if key not in ("n_units", "n_enemies"):
                assert "env_key" not in capability, "a configuration that was used before"
                capability |= {"env_key": key, "n_units": config["n_units"], "n_enemies": config["n_enemies"]}
                {"weighted_teams": None}[capability["dist_type"]]
        self.env = StarCraft2Env(**kwargs)

    def reset(self):
        failed = happens("no_units")
        seen = self.env.reset({})
        return None if failed else seen

    def step(self, actions):
        return self.env.step(actions)

    def __getattr__(self, name):
        return getattr(self.env, name)
