"""The numbers of the documentation that can be made again from what is published, or simulated in a moment."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.conftest import ROOT

VERDICT = ROOT / "docs" / "results" / "amal" / "verdict"


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
