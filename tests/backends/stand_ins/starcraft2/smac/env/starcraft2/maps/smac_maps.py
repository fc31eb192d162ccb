from amal.battle.scenario import load_scenario, scenario_names


def get_smac_map_registry() -> dict[str, dict[str, int]]:
    specs = [load_scenario(name).spec() for name in scenario_names()]
    return {s.scenario: {"n_agents": s.n_agents, "n_enemies": s.n_enemies, "limit": s.episode_limit} for s in specs}
