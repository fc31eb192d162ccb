"""The numbers of the documentation that can be made again from what is published, or simulated in a moment."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import ROOT, run_cli

VERDICT, NORMS = ROOT / "docs" / "results" / "amal" / "verdict", ROOT / "docs" / "results" / "norms"
IMAGINATION, BEFORE = (ROOT / "docs" / "results" / name for name in ("imagination", "imagination_adam"))


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / name))


def test_the_verdicts_tests_are_those_of_its_published_p_values() -> None:
    page = (ROOT / "docs" / "verdict.md").read_text()
    found = script("published.py")["correct_p_values"](VERDICT, "welch_p")
    names = {"welch_p": "final win rate, Welch", "env_steps_log_rank_p": "steps, log-rank"}
    assert found.attrs["tests"] == 30 and (found["p_holm"] > 0.05).all(), "nothing is significant"
    for row in found.head(5).itertuples():
        assert f"| `{row.algorithm}`, {row.scenario} | {names[row.test]} | {row.p:.3f} | {row.p_holm:.2f} |" in page


def test_the_verdicts_intervals_of_steps_are_todays() -> None:
    page = (ROOT / "docs" / "verdict.md").read_text()
    found = script("published.py")["ratios"](VERDICT)
    assert len(found) == 15
    for row in found.itertuples():
        assert f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]" in page, row


def test_what_amal_is_said_to_cost_is_what_the_verdicts_runs_took() -> None:
    found = script("published.py")["time_ratios"](VERDICT)
    assert found.loc["amal_tuned", "mappo_tuned"] == "3.6 to 5.6"
    assert (found.loc["amal", "mappo"], found.loc["amal_tuned", "mappo_episodes_4"]) == ("2.4 to 3.9", "1.9 to 3.3")
    readme, questions = ((ROOT / page).read_text() for page in ("README.md", "docs/faq.md"))
    assert "3.6 to 5.6 times" in readme and "3.6 to 5.6 times" in questions and "1.9 to 3.9 times" in questions


def test_the_norms_win_rates_and_p_values_are_those_of_the_published_files() -> None:
    page = " ".join((ROOT / "docs" / "critics.md").read_text().split())
    found = script("published.py")["win_rates"](NORMS, "sampled_win_rate")
    names = {"mappo": "as shipped", "all": "all three"}
    for algorithm, cells in found.iterrows():
        assert f"| {names.get(algorithm, f'`{algorithm}`')} | {' | '.join(cells)} |" in page
    runs = pd.read_csv(NORMS / "runs.csv").groupby(["algorithm", "scenario"])["final_sampled_win_rate"]
    assert (runs.count() == 10).all()
    for (algorithm, scenario), rate in runs.mean().items():
        assert found.loc[algorithm, scenario].endswith(f" / {rate:.2f}")
    decide, second = (
        script("published.py")["correct_p_values"](NORMS, f"{test}_p") for test in ("welch", "mann_whitney")
    )
    assert (decide["p_holm"] > 0.05).all() and f"{len(second)} tests" in page
    significant = second[second["p_holm"] < 0.05]
    assert [*zip(significant["algorithm"], significant["scenario"], strict=True)] == [
        ("all", "3m"),
        ("layer_norm", "3m"),
    ]
    for table in (decide, second):
        first, then = (f"{p:.2g}" for p in table["p_holm"][:2])
        assert f"{first} and {then}" in page or f"{first} (`all` on 3m) and {then} (`layer_norm` on 3m)" in page


@pytest.mark.parametrize(("folder", "n_runs"), [(IMAGINATION, 20), (BEFORE, 80)])
def test_the_second_designs_win_rates_and_ratios_are_those_of_the_published_files(folder: Path, n_runs: int) -> None:
    page = " ".join((ROOT / "docs" / "amal.md").read_text().split())
    rates = script("published.py")["win_rates"](folder, "greedy_win_rate")
    ratios = script("published.py")["ratios"](folder).set_index(["algorithm", "scenario"])
    for algorithm, row in rates.iterrows():
        for scenario, cell in row.items():
            ratio = "1"
            if algorithm != "tuned MAPPO":
                found = ratios.loc[(algorithm, scenario)]
                ratio = f"{found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]"
            assert f"| {cell} | {ratio} |" in page
    runs = pd.read_csv(folder / "runs.csv").query("in_statistics")
    assert (runs.groupby(["algorithm", "scenario"]).size() == 10).all() and len(runs) == n_runs


def test_what_is_significant_of_the_second_design() -> None:
    correct = script("published.py")["correct_p_values"]
    before = correct(BEFORE, "welch_p")
    significant = before[before["p_holm"] < 0.05]
    assert [*zip(significant["algorithm"], significant["scenario"], strict=True)] == [("perfect world model", "2s3z")]
    page = " ".join((ROOT / "docs" / "amal.md").read_text().split())
    decide, other = (correct(IMAGINATION, f"{test}_p") for test in ("welch", "mann_whitney"))
    assert (decide["p_holm"] > 0.05).all() and f"over the {decide.attrs['tests']} planned tests" in page
    steps, rate = decide.itertuples()
    assert f"log-rank test gives p = {steps.p:.3f}, and {steps.p_holm:.3f} after" in page
    assert f"gives p = {rate.p:.3f}." in page and f"(p = {other['p_holm'][0]:.3f})" in page


def test_the_report_on_the_published_runs_is_the_published_one(tmp_path: Path) -> None:
    run_cli("report", IMAGINATION, "--out", tmp_path)
    for name in ("cost", "runs", "sample_efficiency", "summary"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (IMAGINATION / f"{name}.csv").read_bytes(), name


def test_table_and_figure_of_the_chance_study_are_those_of_its_published_rows(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "results" / "chance"
    script("chance.py")["main"](folder, tmp_path)
    for name in ("runs.csv", "chance.csv", "chance.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("interval", ["percentile bootstrap", "**percentile, ½ run at the bounds**"])
def test_the_coverage_in_the_documentation_is_what_the_simulation_finds(interval: str) -> None:
    simulation = script("interval_coverage.py")
    for page in ("study.md", "results/coverage.md"):
        rows = (ROOT / "docs" / page).read_text().split("| 10 runs |")[1].splitlines()
        told = next(row for row in rows if row.startswith(f"| {interval} |"))
        (draw, mean), *_ = simulation["MODELS"].values()
        assert told.split("|")[2].strip() == simulation["measure"](
            simulation["INTERVALS"][interval], draw, mean, 10, 2000
        )
        assert told.split("|")[-2].strip() == simulation["over_shares"](simulation["INTERVALS"][interval], 10)
