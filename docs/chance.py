"""What random delays of shots make of evaluations and of the spread between seeds, in a study of both kinds of battles.

    python docs/chance.py STUDY OUT

STUDY is the folder of compare --protocol configs/study/chance.yaml --out STUDY, or docs/results/chance, from whose
runs.csv the table and the figure beside it can be made again. OUT gets these three files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from amal.commands.arguments import OneLineParser, fail, path_argument
from amal.study.analysis.scores import Run, area_under_curve, final_scores, read_run, steps_to_threshold

THRESHOLD = 0.5  # of the win rate; one for both kinds of battles
BATTLES = 32  # of an evaluation
RUN = ["scenario", "battles", "seed"]  # columns of runs.csv that name a run
WIN_RATE = "win rate of an evaluation"


def finished_runs(study: Path) -> list[Run]:
    """All finished runs, by scenario, algorithm and seed. Raises ValueError if there is none."""
    folders = [path for path in study.glob("*/*/seed_*") if (path / "run.json").exists()]
    runs = [read_run(path, int(path.name.removeprefix("seed_"))) for path in folders]
    runs = [run for run in runs if run.finished]
    if not runs:
        raise ValueError(f"{study}: no finished run in ALGORITHM/SCENARIO/seed_K, and no runs.csv")
    return sorted(runs, key=lambda run: (run.scenario, run.algorithm, run.seed))


def rows(runs: Sequence[Run]) -> pd.DataFrame:
    """runs.csv: a row per run, its evaluations in one cell: when they were, and how many of their battles were won."""
    return pd.DataFrame(
        {
            **dict(zip(RUN, (run.scenario, run.algorithm, run.seed), strict=True)),
            "env_steps": _in_one_cell(run.evaluations["env_steps"]),
            "battles_won": _in_one_cell(BATTLES * run.evaluations["win_rate"]),
        }
        for run in runs
    )


def _in_one_cell(values: pd.Series) -> str:
    return " ".join(map(str, values.round().astype(int)))


def published_runs(path: Path) -> list[Run]:
    """The runs of a runs.csv, in its order. Raises ValueError for another table."""
    table, runs = pd.read_csv(path), []
    if [*table] != [*RUN, "env_steps", "battles_won"]:
        raise ValueError(f"{path}: is no table of the chance study, its columns are {', '.join(table)}")
    for row in table.itertuples():
        steps, won = (np.array(cell.split(), np.float64) for cell in (row.env_steps, row.battles_won))
        evaluations = pd.DataFrame({"env_steps": steps, "win_rate": won / BATTLES})
        runs.append(Run(row.battles, row.scenario, row.seed, path, True, evaluations, {}))
    return runs


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
    """Raises ValueError if there is no run."""
    published = study / "runs.csv"
    runs = published_runs(published) if published.exists() else finished_runs(study)
    out.mkdir(parents=True, exist_ok=True)
    rows(runs).to_csv(out / "runs.csv", index=False)
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.scenario, run.algorithm), []).append(run)
    table = pd.DataFrame({**dict(zip(RUN, key, strict=False)), **summary(cell)} for key, cell in cells.items()).round(3)
    table.to_csv(out / "chance.csv", index=False)
    draw(runs, out / "chance.png")
    print(table.to_string(index=False))


if __name__ == "__main__":
    parser = OneLineParser(prog="python docs/chance.py", description="Describe the chance study.", allow_abbrev=False)
    parser.add_argument("study", type=path_argument, metavar="STUDY", help="its folder, or docs/results/chance")
    parser.add_argument("out", type=path_argument, metavar="OUT", help="folder for runs.csv, chance.csv and chance.png")
    given = parser.parse_args()
    try:
        main(given.study, given.out)
    except (ValueError, OSError) as error:
        fail(str(error))
