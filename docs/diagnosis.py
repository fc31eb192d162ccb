"""Draws what ``callbacks.Diagnosis`` measured in the runs of a study, and prints its means.

Usage: python docs/diagnosis.py STUDY OUT, after compare --protocol configs/study/diagnosis.yaml --out STUDY
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

GRADIENTS = {
    "gradient_fresh": "fresh episodes",
    "gradient_replayed": "replayed",
    "gradient_imagined": "imagined",
    "gradient_update": "all that an update uses",
    "gradient_ceiling": "halves of the reference",
}
HORIZONS = (1, 2, 3, 5, 8, 12)
QUARTER = "quarter of the budget"


def collected(study: Path) -> pd.DataFrame:
    """All rows of all runs, with what they are of and a number for the quarter of the budget."""
    tables = []
    for path in sorted(study.glob("*/*/seed_*/diagnosis.csv")):
        algorithm, scenario, seed = path.parts[-4:-1]
        tables.append(pd.read_csv(path).assign(algorithm=algorithm, scenario=scenario, seed=seed))
    if not tables:
        raise SystemExit(f"error: no diagnosis.csv in {study}/ALGORITHM/SCENARIO/seed_K")
    table = pd.concat(tables, ignore_index=True)
    share = table["env_steps"] / table.groupby(["algorithm", "scenario", "seed"])["env_steps"].transform("max")
    table[QUARTER] = (share * 4).clip(upper=3.999).astype(int) + 1
    for horizon in HORIZONS:
        table[f"model_ratio_{horizon}"] = table[f"model_{horizon}"] / table[f"nothing_changes_{horizon}"]
    return table


def draw(table: pd.DataFrame, out: Path) -> None:
    """A row of panels per scenario: gradients, the world model by horizon, and what the auxiliary agents reach."""
    scenarios = sorted(table["scenario"].unique())
    figure, axes = plt.subplots(len(scenarios), 3, figsize=(16, 5 * len(scenarios)), squeeze=False)
    for row, scenario in zip(axes, scenarios, strict=True):
        some = table[table["scenario"] == scenario]
        cosines = some.melt(QUARTER, list(GRADIENTS), "gradient", "cosine").replace({"gradient": GRADIENTS})
        sns.pointplot(cosines, x=QUARTER, y="cosine", hue="gradient", palette="colorblind", ax=row[0], dodge=0.3)
        row[0].set_title(f"{scenario}: agreement with the gradient of 128 fresh episodes")
        ratios = some.melt(QUARTER, [f"model_ratio_{h}" for h in HORIZONS], "horizon", "error ÷ error of no change")
        ratios["steps ahead"] = ratios["horizon"].str.rsplit("_", n=1).str[1].astype(int)
        sns.lineplot(ratios, x="steps ahead", y="error ÷ error of no change", hue=QUARTER, palette="viridis", ax=row[1])
        row[1].axhline(1.0, color="black", linewidth=0.8)
        row[1].set_title(f"{scenario}: the world model's error")
        returns = some.melt(QUARTER, ["policy_return", "auxiliary_return"], "who", "return in the real battle")
        sns.pointplot(
            returns, x=QUARTER, y="return in the real battle", hue="who", palette="colorblind", ax=row[2], dodge=0.3
        )
        row[2].set_title(f"{scenario}: the auxiliary agents in the real battle")
    for panel in axes.flat:
        sns.move_legend(panel, "upper center", bbox_to_anchor=(0.5, -0.15), ncol=3)
    figure.tight_layout()
    figure.savefig(out / "diagnosis.png", dpi=110)


def main(study: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = collected(study)
    draw(table, out)
    numbers = table.drop(columns=["seed", "env_steps", "episodes"])
    means = numbers.groupby(["algorithm", "scenario", QUARTER]).mean().round(3)
    means.to_csv(out / "diagnosis.csv")
    print(means.T.to_string())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
