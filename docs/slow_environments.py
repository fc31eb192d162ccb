"""What fewer real steps are worth where steps cost more: seconds to 90 % of the baseline's final win rate, as ratios.

Usage: python docs/slow_environments.py REPORT [--out figure.png], a folder that ``amal report`` wrote. By arithmetic
from its measured parts: an algorithm's seconds per step here, of which the simulator takes next to nothing, plus what a
step takes in another environment, times the ratio of steps. Evaluations there are not counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

SPEEDS = (20, 100, 500, 5000)  # env-steps per second
CURVE = np.geomspace(10, 10_000, 200)
INTERVAL = ("env_steps_ratio", "env_steps_ratio_low", "env_steps_ratio_high")


def factors(cost: pd.DataFrame, baseline: str, speeds: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """By scenario and algorithm, how many times the baseline's seconds a step takes at these speeds."""
    own = {(row.scenario, row.algorithm): 1 / row.env_steps_per_second for row in cost.itertuples()}
    return {
        (scenario, name): (1 / speeds + seconds) / (1 / speeds + own[scenario, baseline])
        for (scenario, name), seconds in own.items()
        if name != baseline
    }


def table(steps: pd.DataFrame, times: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    rows = []
    for row in steps.to_dict("records"):
        key = str(row["scenario"]), str(row["algorithm"])
        if key not in times or not row["env_steps_ratio"] > 0:
            continue
        told = {
            f"{speed:,} steps/s": "{:.2f} [{:.2f}, {:.2f}]".format(*(row[name] * factor for name in INTERVAL))
            for speed, factor in zip(SPEEDS, times[key], strict=True)
        }
        rows.append({"scenario": key[0], "algorithm": key[1], "steps ×": f"{row['env_steps_ratio']:.2f}", **told})
    return pd.DataFrame(rows)


def draw(steps: pd.DataFrame, times: dict[tuple[str, str], np.ndarray], path: Path) -> None:
    steps = steps[steps["env_steps_ratio"] > 0]
    scenarios = list(dict.fromkeys(steps["scenario"]))
    figure, panels = plt.subplots(1, len(scenarios), figsize=(4.5 * len(scenarios), 3.5), squeeze=False, sharey=True)
    for scenario, axes in zip(scenarios, panels[0], strict=True):
        for row in steps[steps["scenario"] == scenario].to_dict("records"):
            key = scenario, str(row["algorithm"])
            axes.plot(CURVE, row["env_steps_ratio"] * times[key], label=key[1])
        axes.axhline(1.0, color="grey", linewidth=0.8)
        axes.set(title=scenario, xscale="log", yscale="log", xlabel="env-steps per second of the environment")
    panels[0, 0].set_ylabel("seconds to 90 %, × the baseline's")
    panels[0, -1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    try:
        efficiency, cost = (pd.read_csv(given.report / f"{name}.csv") for name in ("sample_efficiency", "cost"))
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error.filename}: no such file; REPORT is what `amal report` wrote") from None
    first = str(efficiency["algorithm"].iloc[0])  # a report's tables begin with the baseline
    print(table(efficiency, factors(cost, first, np.array(SPEEDS))).to_string(index=False))
    if given.out is not None:
        draw(efficiency, factors(cost, first, CURVE), given.out)
