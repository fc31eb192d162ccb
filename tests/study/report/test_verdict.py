"""What a report says was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amal.study.analysis.comparison import read_comparison
from amal.study.analysis.efficiency import sample_efficiency
from amal.study.report.curves import ratio_bars
from amal.study.report.report import make_tables, write_report
from tests.study.studies import BOOTSTRAP, of, set_outcome, swapped, verdict_of, write_run, write_study


def test_the_verdict_of_a_clear_win(tmp_path: Path) -> None:
    found = verdict_of(of(write_study(tmp_path)))
    assert found.headline == (
        "Preliminary (5 seeds, 10 needed): amal is ahead of mappo: final win rate better on 2, worse on 0 of 2 "
        "scenarios; sample efficiency better on 2, worse on 0 of 2 scenarios."
    )
    assert "Difference of the means: +0.40 [0.1" in found.sentences[0]
    assert "Welch's t-test: better on 3m, MMM. By" in found.sentences[1]
    assert "amal needed 0." in found.sentences[2] and "corrected: fewer on 3m, MMM." in found.sentences[2]


def test_the_verdict_of_a_loss(tmp_path: Path) -> None:
    found = verdict_of(of(swapped(tmp_path)))
    assert found.headline == (
        "Preliminary (5 seeds, 10 needed): amal is behind mappo: final win rate better on 0, worse on 2 of 2 "
        "scenarios; sample efficiency better on 0, worse on 2 of 2 scenarios."
    )
    assert "Difference of the means: −0.40 [−0.5" in found.sentences[0]
    assert found.sentences[1].count("worse on 3m, MMM") == 2 and "better" not in found.sentences[1]
    assert "corrected: more on 3m, MMM." in found.sentences[2]
    assert "amal needed at least 2.5" in found.sentences[2]
    assert "Runs that never got there: 10 of 10 of amal and 0 of 10 of mappo." in found.sentences[2]
    comparison = of(tmp_path)
    bars = ratio_bars(comparison, sample_efficiency(comparison, BOOTSTRAP), BOOTSTRAP)
    assert [(bar.group, bar.mark) for bar in bars] == [("3m", "≥"), ("MMM", "≥"), ("geom. mean", "≥")]


def test_the_verdict_without_a_difference(tmp_path: Path) -> None:
    same = (0.8, 0.85, 0.9, 0.95, 1.0)
    found = verdict_of(of(write_study(tmp_path, same, same[::-1], (8, 8))))
    assert found.headline == (
        "Preliminary (5 seeds, 10 needed): undecided, no significant difference between amal and mappo in final "
        "win rate or sample efficiency."
    )
    assert found.sentences[1].count("no significant difference") == 2
    assert "Log-rank test, corrected: no significant difference." in found.sentences[2]


def test_the_verdict_where_the_scenarios_disagree(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    high, low = (0.9, 0.92, 0.94, 0.96, 0.98), (0.5, 0.52, 0.54, 0.56, 0.58)
    write_study(tmp_path, low, high, (10, 10), ["8m"])
    headline = verdict_of(of(tmp_path)).headline
    assert "amal is partly ahead of and partly behind mappo" in headline
    assert "final win rate better on 1, worse on 1 of 2 scenarios" in headline


@pytest.mark.parametrize(
    ("seeds", "headline"),
    [
        (1, "No verdict (1 seed, 5 needed): one seed allows no test and no interval."),
        (3, "No verdict (3 seeds, 5 needed). So far: amal is"),
        (10, "With 10 seeds: amal is ahead of mappo: final win rate"),
    ],
)
def test_the_verdict_says_how_sure_it_is(tmp_path: Path, seeds: int, headline: str) -> None:
    found = verdict_of(of(write_study(tmp_path, seeds=seeds)))
    assert found.headline.startswith(headline) and "nan" not in " ".join(found.sentences)
    assert ("Welch" in " ".join(found.sentences)) == ("Log-rank" in " ".join(found.sentences)) == (seeds > 1)


def test_a_difference_is_found_only_if_it_survives_the_correction_over_all_planned_tests(tmp_path: Path) -> None:
    ours, base = (1.0, 1.0, 0.9, 0.8, 0.9), (0.65, 0.8, 0.85, 0.6, 0.8)
    write_study(tmp_path / "alone", ours, base, (8, 8), ["3m"])
    few = make_tables(of(tmp_path / "alone"), BOOTSTRAP)
    p_value = few["summary"].set_index("algorithm").loc["amal", "welch_p"]
    assert 0.01 < p_value < 0.025 and "ahead" in verdict_of(of(tmp_path / "alone")).headline, "2 tests"

    write_study(tmp_path / "more", ours, base, (8, 8), ["3m"])
    for variant in ("ippo", "amal_no_replay"):
        for seed in range(5):
            write_run(tmp_path / "more", variant, "3m", seed, base[seed % 5], 8 + seed % 5)
    for only in ((), ("amal",)):  # leaving algorithms out of the report does not shrink the family
        comparison = read_comparison(tmp_path / "more", "mappo", only)
        row = make_tables(comparison, BOOTSTRAP)["summary"].set_index("algorithm").loc["amal"]
        assert comparison.family == 6 and row["welch_p"] == p_value
        assert row["welch_p_holm"] == pytest.approx(6 * p_value) and row["welch_p_holm"] > 0.05
        found = verdict_of(comparison)
        assert "undecided" in found.headline and "Welch's t-test: no significant" in found.sentences[1]
        assert "corrected over the study's 6 tests" in found.sentences[1]


def test_nothing_to_compare_is_no_error(tmp_path: Path) -> None:
    write_run(tmp_path, "mappo", "3m", 0)
    write_run(tmp_path, "amal", "3m", 0, outcome="running")
    found = write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP)
    assert found["amal"].headline.startswith("No verdict: on no scenario that counts has a seed been finished by ")
    assert json.loads((tmp_path / "report" / "marl_eval.json").read_text()) == {}
    set_outcome(tmp_path / "mappo" / "3m" / "seed_0", "interrupted")
    assert write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP) == found
