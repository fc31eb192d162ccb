from pysc2.maps import FILES
from skirmish import MAPS


def get_smac_map_registry() -> dict[str, dict[str, object]]:
    return {
        name: {"n_agents": n, "n_enemies": m, "limit": limit, "map_name": FILES.get(name, name)}
        for name, (n, m, limit) in MAPS.items()
    }
