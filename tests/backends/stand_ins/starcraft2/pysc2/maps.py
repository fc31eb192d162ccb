from types import SimpleNamespace

FILES = {"10gen_terran": "32x32_flat"}  # where it differs from the name


def get(name):
    return SimpleNamespace(path=f"SMAC_Maps/{FILES.get(name, name)}.SC2Map")
