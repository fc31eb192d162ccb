from skirmish import MAPS


def get_smac_map_registry() -> dict[str, dict[str, int]]:
    return {name: {"n_agents": n, "n_enemies": m, "limit": limit} for name, (n, m, limit) in MAPS.items()}
