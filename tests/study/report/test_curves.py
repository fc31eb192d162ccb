"""The lines of a report's figures."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from amal.study.report.curves import aggregate_curves
from tests.study.studies import BOOTSTRAP, EVALUATIONS, EVERY, of, write_study


def test_scenarios_with_budgets_of_their_own_are_joined_at_shares_of_them(tmp_path: Path) -> None:
    """Both algorithms' runs win from the evaluation on that they arrive at; MMM's have four times the steps."""
    study = write_study(tmp_path, arrivals=(4, 12))
    comparison = of(study)
    lines, axis = aggregate_curves(comparison, BOOTSTRAP)
    assert axis == "environment steps" and lines["amal"].x[-1] == EVALUATIONS * EVERY
    for run in study.glob("*/MMM/seed_*/evaluations.csv"):
        rows = pd.read_csv(run)
        rows.assign(env_steps=4 * rows["env_steps"]).to_csv(run, index=False)
    short, _ = aggregate_curves(of(study), BOOTSTRAP)
    assert short["amal"].x[-1] == EVALUATIONS * EVERY, "MMM's first quarter"
    budgets = {"env_steps": EVALUATIONS * EVERY, "budgets": {"MMM": 4 * EVALUATIONS * EVERY}}
    shares, axis = aggregate_curves(replace(of(study), record=budgets), BOOTSTRAP)
    assert axis == "share of the scenario's budget" and shares["amal"].x[-1] == 1.0
    assert (shares["amal"].middle == lines["amal"].middle).all() and (
        short["amal"].middle != lines["amal"].middle
    ).any()
