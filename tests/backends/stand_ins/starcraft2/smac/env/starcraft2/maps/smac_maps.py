from skirmish import MAPS


def get_smac_map_registry() -> dict[str, dict[str, int]]:
    known = {name: sizes for name, sizes in MAPS.items() if not name.startswith("10gen_")}
    return {name: {"n_agents": n, "n_enemies": m, "limit": limit} for name, (n, m, limit) in known.items()}
