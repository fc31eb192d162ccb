"""What random delays of shots make of evaluations and of the spread between seeds, in a study of both kinds of battles.

Usage: python docs/chance.py STUDY OUT, after compare --protocol configs/study/chance.yaml --out STUDY
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from amal.study.analysis.scores import Run, area_under_curve, final_scores, read_run, steps_to_threshold

THRESHOLD = 0.5  # of the win rate; one for both kinds of battles
BATTLES = 32  # of an evaluation
WIN_RATE = "win rate of an evaluation"


def finished_runs(study: Path) -> list[Run]:
    """All finished runs, by scenario, algorithm and seed."""
    folders = [path for path in study.glob("*/*/seed_*") if (path / "run.json").exists()]
    runs = [read_run(path, int(path.name.removeprefix("seed_"))) for path in folders]
    runs = [run for run in runs if run.finished]
    if not runs:
        raise SystemExit(f"error: no finished run in {study}/ALGORITHM/SCENARIO/seed_K")
    return sorted(runs, key=lambda run: (run.scenario, run.algorithm, run.seed))


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Numbers of one cell. Spreads are standard deviations between seeds; of steps, of their logarithm.

    ``steps`` is the geometric mean of the runs that arrived at the threshold.
    """
    rates = pd.concat([run.evaluations["win_rate"] for run in runs])
    jumps = pd.concat([run.evaluations["win_rate"].diff().abs().dropna() for run in runs])
    final = final_scores(runs)
    areas = np.array([area_under_curve(run) for run in runs])
    steps = [steps_to_threshold(run, THRESHOLD) for run in runs]
    arrived = np.array([amount for amount, censored in steps if not censored])
    return {
        "seeds": len(runs),
        "evaluations": len(rates),
        "all_lost": (rates == 0).mean(),
        "mixed": rates.between(0, 1, inclusive="neither").mean(),
        "all_won": (rates == 1).mean(),
        "mean_jump": jumps.mean(),
        "final": final.mean(),
        "final_spread": _spread(final),
        "area": areas.mean(),
        "area_spread": _spread(areas),
        "arrived": len(arrived),
        "steps": np.exp(np.log(arrived).mean()) if len(arrived) else float("nan"),
        "log_steps_spread": _spread(np.log(arrived)),
    }


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def draw(runs: Sequence[Run], path: Path) -> None:
    """How often each win rate occurs among a scenario's evaluations, with and without."""
    columns = [run.evaluations.assign(scenario=run.scenario, battles=run.algorithm) for run in runs]
    table = pd.concat(columns, ignore_index=True).rename(columns={"win_rate": WIN_RATE})
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    figure = Figure(figsize=(3.2 * len(scenarios), 3.2), layout="constrained")
    panels = figure.subplots(1, len(scenarios), squeeze=False, sharey=True)[0]
    for panel, scenario in zip(panels, scenarios, strict=True):
        some, last = table[table["scenario"] == scenario], panel is panels[-1]
        bins = (np.arange(BATTLES + 2) - 0.5) / BATTLES
        looks = {"stat": "proportion", "common_norm": False, "element": "step", "palette": "colorblind"}
        sns.histplot(some, x=WIN_RATE, hue="battles", bins=bins, ax=panel, legend=last, **looks)
        panel.set_title(scenario)
    figure.savefig(path, dpi=110)


def main(study: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    runs = finished_runs(study)
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.scenario, run.algorithm), []).append(run)
    rows = [{"scenario": key[0], "battles": key[1], **summary(cell)} for key, cell in cells.items()]
    table = pd.DataFrame(rows).round(3)
    table.to_csv(out / "chance.csv", index=False)
    draw(runs, out / "chance.png")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
