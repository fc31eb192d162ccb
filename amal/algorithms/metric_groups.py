"""The groups under which loggers show metrics, by the part of an algorithm that they are of."""

from __future__ import annotations

GROUPS = {  # by how a metric's name begins
    "model_": "model",
    "isolation_": "model",
    "information": "bonus",
    "bonus_": "bonus",
    "lambda": "bonus",
    "importance_": "replay",
    "replay_": "replay",
    "imagined_": "replay",
    "imagination_": "imagination",
    "auxiliary_": "auxiliary",
}


def grouped(name: str) -> str:
    """``model/obs_loss`` for ``train/model_obs_loss``; other metrics keep their names."""
    bare = name.removeprefix("train/")
    for beginning, group in GROUPS.items():
        if bare != name and bare.startswith(beginning):
            return f"{group}/{bare.removeprefix(f'{group}_')}"
    return name
