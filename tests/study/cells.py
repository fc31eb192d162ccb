"""A grid, the options of a brief study, and stand-ins for its runs."""

from __future__ import annotations

import json
from pathlib import Path

from amal.study.grid.runs import Cell, Grid

BRIEF = ("data.episodes_per_update=4", "data.num_envs=4", "evaluation.every_n_episodes=8", "checkpoint.every_seconds=0")


OF_STUDIES = ("--checkpoint.keep_learning_state=false", "--trainer.callbacks+=callbacks.FinalTest")


GRID = Grid({"mappo": [Path("configs/mappo.yaml")], "ippo": [Path("configs/ippo.yaml")]}, ["3m", "8m"], [0, 1], 1000)


RECORD = {"algorithm": "MAPPO", "outcome": "finished", "totals": {}}


EVALUATIONS = """\
env_steps,episodes,wall_seconds,win_rate,return_mean,return_std,episode_length,dead_allies,dead_enemies
600,30,1.0,0.5,10.0,1.0,20.0,1.0,2.0
"""


STAND_IN = f"""
import json, os, pathlib, signal, sys
seed = next(word for word in sys.argv if word.startswith("--seed"))[-1]
if seed in "12" and not int((pathlib.Path(__file__).parent / "patience").read_text()):
    print("RuntimeError: no")
    sys.exit(3) if seed == "1" else os.kill(os.getpid(), signal.SIGKILL)
folder = pathlib.Path(sys.argv[-1])
folder.joinpath("run.json").write_text(json.dumps({RECORD} | {{"scenario": "3m", "seed": int(seed)}}))
folder.joinpath("evaluations.csv").write_text({EVALUATIONS!r})
print(os.environ["OMP_NUM_THREADS"])
"""


def arguments(out: Path, *more: str, algorithms: tuple[str, ...] = ("mappo",), seeds: str = "2") -> list[str]:
    grid = ["--algorithms", *algorithms, "--scenarios", "3m", "--seeds", seeds, "--env_steps", "600"]
    return [*grid, "--overrides", *BRIEF, "--out", str(out), *more]


def fake(cell: Cell, outcome: str | None = None, checkpoint: bool = False) -> None:
    cell.folder.mkdir(parents=True)
    if outcome is not None:
        record = RECORD | {"scenario": cell.scenario, "seed": cell.seed, "outcome": outcome}
        (cell.folder / "run.json").write_text(json.dumps(record))
        (cell.folder / "evaluations.csv").write_text(EVALUATIONS)
    if checkpoint:
        cell.checkpoint.parent.mkdir()
        cell.checkpoint.touch()
