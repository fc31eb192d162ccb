"""The report of synthetic studies whose numbers are known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from scipy import stats

from amal.commands.report import main
from amal.study.analysis.comparison import Comparison, complete_seeds, read_comparison
from amal.study.analysis.efficiency import pooled_ratio, sample_efficiency
from amal.study.analysis.ledger import cost, diagnostics, runs
from amal.study.analysis.scores import COLUMNS
from amal.study.analysis.tables import Bootstrap, aggregates, summary
from amal.study.analysis.verdict import Verdict, least_p_value, rank_test_sentence, sureness, verdict
from amal.study.figures import styles
from amal.study.grid.runs import read_record
from amal.study.report.curves import ratio_bars
from amal.study.report.formats import latex, markdown, number, p_value
from amal.study.report.marl_eval import marl_eval_data
from amal.study.report.notes import notes
from amal.study.report.report import make_tables, write_report
from tests.conftest import ROOT

Cli = Callable[..., None]
BOOTSTRAP = Bootstrap(resamples=100)
EVALUATIONS, EVERY = 20, 1000


def write_run(
    study: Path,
    algorithm: str,
    scenario: str,
    seed: int,
    final: float = 1.0,
    arrival: int = 10,
    outcome: str = "finished",
    seconds_per_step: float = 0.01,
) -> Path:
    """A run whose win rate is 0 and, from one evaluation on, final."""
    folder = study / algorithm / scenario / f"seed_{seed}"
    folder.mkdir(parents=True)
    steps = EVERY * np.arange(1, EVALUATIONS + 1)
    rates = np.where(np.arange(1, EVALUATIONS + 1) >= arrival, final, 0.0)
    rows = {"env_steps": steps, "episodes": steps / 10, "wall_seconds": seconds_per_step * steps, "win_rate": rates}
    rows |= {"return_mean": 20 * rates, "episode_length": 40 - 10 * rates, "dead_allies": 3 * (1 - rates)}
    pd.DataFrame(rows).reindex(columns=COLUMNS, fill_value=1.0).to_csv(folder / "evaluations.csv", index=False)
    metrics = {"env_steps": steps, "train/entropy": np.linspace(1, 0, EVALUATIONS), "train/lr": 0.5}
    pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
    totals = {"env_steps": int(steps[-1]), "episodes": int(steps[-1] // 10), "peak_memory_mb": 1000 + seed}
    totals |= {"wall_seconds": seconds_per_step * steps[-1], "env_steps_per_second": 1 / seconds_per_step}
    record = {"algorithm": algorithm.upper(), "scenario": scenario, "seed": seed, "outcome": outcome, "totals": totals}
    record |= {"code_version": "abc", "simulator_hash": "f00", "hardware": {"processor": "Z80", "cores": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_study(
    study: Path,
    amal: Sequence[float] = (0.9, 0.92, 0.94, 0.96, 0.98),
    mappo: Sequence[float] = (0.5, 0.52, 0.54, 0.56, 0.58),
    arrivals: tuple[int, int] = (4, 12),
    scenarios: Sequence[str] = ("3m", "MMM"),
    seeds: int = 5,
) -> Path:
    """Final win rates by seed, the same on all scenarios; and the evaluations from which on runs win."""
    for scenario in scenarios:
        for seed in range(seeds):
            write_run(study, "amal", scenario, seed, amal[seed % 5], arrivals[0] + seed % 5)
            write_run(study, "mappo", scenario, seed, mappo[seed % 5], arrivals[1] + seed % 5)
    return study


def swapped(study: Path) -> Path:
    return write_study(study, (0.5, 0.52, 0.54, 0.56, 0.58), (0.9, 0.92, 0.94, 0.96, 0.98), (12, 4))


def of(study: Path, baseline: str = "mappo") -> Comparison:
    return read_comparison(study, baseline)


def verdict_of(comparison: Comparison, algorithm: str = "amal") -> Verdict:
    tables = make_tables(comparison, BOOTSTRAP)
    names = "summary", "aggregates", "sample_efficiency"
    return verdict(comparison, algorithm, *(tables[name] for name in names), BOOTSTRAP)


def set_outcome(folder: Path, outcome: str) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"outcome": outcome}))


def test_summary_has_known_numbers(tmp_path: Path) -> None:
    tables = make_tables(of(write_study(tmp_path)), BOOTSTRAP)
    rows = tables["summary"].set_index(["scenario", "algorithm"])
    assert list(rows.index) == [("3m", "mappo"), ("3m", "amal"), ("MMM", "mappo"), ("MMM", "amal")]
    ours, base = rows.loc[("3m", "amal")], rows.loc[("3m", "mappo")]
    assert ours["win_rate"] == pytest.approx(0.94) and base["win_rate"] == pytest.approx(0.54)
    # of five runs up to two may be the one that is added, at 0 or at 1
    assert 0.5 < ours["win_rate_low"] < 0.9 and 0.94 < ours["win_rate_high"] <= 1
    assert ours["return"] == pytest.approx(18.8) and ours["episode_length"] == pytest.approx(30.6)
    assert ours["dead_allies"] == pytest.approx(0.18) and ours["dead_enemies"] == 1
    assert ours["difference"] == pytest.approx(0.4) and 0 <= ours["difference_low"] < 0.3
    # both groups have a standard deviation of √0.001: t = 0.4 / √(2 · 0.001 / 5) = 20 with 8 degrees of freedom
    assert ours["cohens_d"] == pytest.approx(0.4 / np.sqrt(0.001))
    assert ours["welch_p"] == pytest.approx(2 * stats.t.sf(20, 8))
    # the family: two tests of one algorithm on two scenarios
    assert ours["welch_p_holm"] == pytest.approx(4 * ours["welch_p"])
    assert ours["mann_whitney_p"] == pytest.approx(2 / 252) and ours["mann_whitney_p_holm"] == pytest.approx(4 / 252)
    assert np.isnan(base["difference"]) and np.isnan(base["welch_p_holm"])
    # it wins from evaluation k of 20 on, the rise from the one before counting half: final (20.5 − k) / 20
    finals, ks = np.array([0.9, 0.92, 0.94, 0.96, 0.98]), np.arange(4, 9)
    assert ours["auc"] == pytest.approx((finals * (20.5 - ks) / 20).mean())


def test_aggregates_have_known_numbers(tmp_path: Path) -> None:
    table = aggregates(of(write_study(tmp_path)), BOOTSTRAP).set_index("algorithm")
    assert list(table.index) == ["mappo", "amal"] and (table["seeds"] == 5).all() and (table["scenarios"] == 2).all()
    ours = table.loc["amal"]
    # of 10 scores, each twice, ⌊10/4⌋ = 2 are left out at each end
    assert ours[["iqm", "median", "mean"]].tolist() == pytest.approx([0.94] * 3)
    assert ours["optimality_gap"] == pytest.approx(0.06)
    assert ours["improvement"] == ours["improvement_high"] == 1 and 0.5 < ours["improvement_low"] < 0.9
    assert ours["iqm_low"] < 0.94 < ours["iqm_high"] and np.isnan(table.loc["mappo", "improvement"])


def test_sample_efficiency_has_known_numbers_and_marks_censored_runs(tmp_path: Path) -> None:
    write_study(tmp_path, mappo=(0.6,) * 5, scenarios=["3m"])
    set_rates(tmp_path / "amal" / "3m" / "seed_0", 0.1)
    table = sample_efficiency(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    ours, base = table.loc["amal"], table.loc["mappo"]
    assert ours["threshold"] == pytest.approx(0.54) and ours["reached"] == 4 and base["reached"] == 5
    # at three evaluations: amal's first two of 0.92 have a mean of 0.61 at the second, mappo's take all three
    assert ours["env_steps_by_run"] == ">20000 6000 7000 8000 9000"
    assert base["env_steps_by_run"] == "14000 15000 16000 17000 18000"
    assert ours["env_steps_median"] == 8000 and ours["episodes_median"] == 800
    # up to 20000, where the censored run ends: (20 + 6 + 7 + 8 + 9) over (14 + 15 + 16 + 17 + 18)
    assert ours["env_steps_ratio"] == pytest.approx(50 / 80) == ours["episodes_ratio"]
    assert ours["env_steps_ratio_low"] < 50 / 80 < ours["env_steps_ratio_high"]
    by_run = runs(of(tmp_path)).set_index(["algorithm", "seed"])
    assert by_run.loc[("amal", 0), "steps_to_threshold"] == 20000 and by_run.loc[("amal", 0), "censored"]
    assert by_run.loc[("mappo", 0), "steps_to_threshold"] == 14000 and not by_run.loc[("mappo", 0), "censored"]


def set_rates(folder: Path, rate: float) -> None:
    rows = pd.read_csv(folder / "evaluations.csv")
    rows.assign(win_rate=rate).to_csv(folder / "evaluations.csv", index=False)


def test_pools_ratios_as_a_geometric_mean(tmp_path: Path) -> None:
    for scenario, arrival in (("3m", 3), ("8m", 12)):
        for seed in range(5):
            write_run(tmp_path, "amal", scenario, seed, 1.0, arrival - 2)
            write_run(tmp_path, "mappo", scenario, seed, 1.0, 4)
    # all three evaluations have to be 1: 3000 of 6000 and 12000 of 6000
    ratio, (low, high), scenarios = pooled_ratio(of(tmp_path), "amal", BOOTSTRAP)
    assert scenarios == ["3m", "8m"] and ratio == pytest.approx(1.0) and 0.5 < low < 1 < high < 2


@pytest.mark.parametrize(("final", "reason"), [(0.0, "mappo never wins"), (0.03, "wins less than 1 battle in 32")])
def test_a_baseline_that_does_not_win_has_no_threshold(tmp_path: Path, final: float, reason: str) -> None:
    study = write_study(tmp_path, amal=(0.0,) * 5, mappo=(final,) * 5, scenarios=["corridor"])
    table = sample_efficiency(of(study), BOOTSTRAP)
    assert table["threshold"].isna().all() and table["note"].str.contains(reason).all()
    found = verdict_of(of(study))
    assert "cannot be compared: corridor, not applicable" in " ".join(found.sentences)
    write_report(of(study), study / "report", BOOTSTRAP)
    assert reason in (study / "report" / "report.html").read_text()
    assert "steps_to_threshold" not in pd.read_csv(study / "report" / "runs.csv")


def test_the_verdict_of_a_clear_win(tmp_path: Path) -> None:
    found = verdict_of(of(write_study(tmp_path)))
    assert found.headline == (
        "Preliminary: amal is ahead of mappo: final win rate ahead on both scenarios; sample efficiency ahead on both "
        "scenarios."
    )
    assert "difference of the means +0.40 [0.1" in found.sentences[0]
    assert "Welch's t-test finds a win rate above mappo's on 3m, MMM" in found.sentences[1]
    assert "amal needed 0." in found.sentences[2] and "significantly fewer on 3m, MMM" in found.sentences[2]
    assert found.sentences[3].startswith("5 seeds: preliminary (10 for a claim)")


def test_the_verdict_of_a_loss(tmp_path: Path) -> None:
    found = verdict_of(of(swapped(tmp_path)))
    assert found.headline == (
        "Preliminary: amal is behind mappo: final win rate behind on both scenarios; sample efficiency behind on both "
        "scenarios."
    )
    assert "difference of the means −0.40 [−0.5" in found.sentences[0]
    assert "a win rate below mappo's on 3m, MMM" in found.sentences[1]
    assert "significantly more on 3m, MMM" in found.sentences[2]
    assert "amal needed at least 2.5" in found.sentences[2]
    assert "; 10 of 10 runs of amal never got there." in found.sentences[2]
    comparison = of(tmp_path)
    bars = ratio_bars(comparison, sample_efficiency(comparison, BOOTSTRAP), BOOTSTRAP)
    assert [(bar.group, bar.mark) for bar in bars] == [("3m", "≥"), ("MMM", "≥"), ("geom. mean", "≥")]


def test_the_verdict_without_a_difference(tmp_path: Path) -> None:
    same = (0.8, 0.85, 0.9, 0.95, 1.0)
    found = verdict_of(of(write_study(tmp_path, same, same[::-1], (8, 8))))
    assert found.headline == (
        "Preliminary: undecided, no significant difference between amal and mappo in final win rate or sample "
        "efficiency."
    )
    assert found.sentences[1].count("no significant difference") == 2 and "no difference is sig" in found.sentences[2]


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
        assert "undecided" in found.headline and "Welch's t-test finds no significant" in found.sentences[1]
        assert "corrected over the study's 6 tests" in found.sentences[1]


def test_the_family_is_the_plans_and_another_baseline_is_exploratory(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": [], "ippo": []}}
    plan |= {"scenarios": ["3m", "8m", "MMM"], "seeds": [0, 1, 2, 3, 4], "baseline": "mappo", "tuned_on": ["8m"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {"history": [{"code_version": "abc"}]}))
    assert of(tmp_path).family == 2 * 2 * 2, "two algorithms, two scenarios of which one has no runs yet, two tests"
    assert "exploratory" not in "\n".join(notes(of(tmp_path)))
    assert "planned with mappo as the baseline" in "\n".join(notes(of(tmp_path, "amal")))


def test_the_verdict_where_the_scenarios_disagree(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    high, low = (0.9, 0.92, 0.94, 0.96, 0.98), (0.5, 0.52, 0.54, 0.56, 0.58)
    write_study(tmp_path, low, high, (10, 10), ["8m"])
    headline = verdict_of(of(tmp_path)).headline
    assert "in part ahead of mappo and in part behind" in headline
    assert "final win rate ahead on 1 of 2 scenarios and behind on 1 of 2 scenarios" in headline


@pytest.mark.parametrize(
    ("seeds", "headline", "sure"),
    [
        (1, "No verdict: with one seed no difference", "1 seed: preliminary (5 needed, 10 for a claim)"),
        (3, "No verdict yet with 3 of at least 5 seeds. So far: amal is", "3 seeds: preliminary (5 needed, 10 for"),
        (10, "With 10 seeds: amal is ahead of mappo: final win rate", "10 seeds: enough for a claim"),
    ],
)
def test_the_verdict_says_how_sure_it_is(tmp_path: Path, seeds: int, headline: str, sure: str) -> None:
    found = verdict_of(of(write_study(tmp_path, seeds=seeds)))
    assert found.headline.startswith(headline) and found.sentences[3].startswith(sure)
    assert sureness(seeds) == found.sentences[3] and "nan" not in " ".join(found.sentences)


def test_says_what_the_rank_test_can_reach(tmp_path: Path) -> None:
    assert least_p_value(5) == pytest.approx(2 / 252) and least_p_value(3) == pytest.approx(0.1)
    assert "0.0079, after Holm's correction over the study's 4 tests 0.032" in rank_test_sentence(
        of(write_study(tmp_path / "a"))
    )
    few = rank_test_sentence(of(write_study(tmp_path / "b", seeds=3)))
    assert "3 against 3" in few and "0.4: it cannot find any difference" in few and "takes at least 5 seeds" in few


def test_one_seed_has_no_interval_and_no_band(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=1)
    rows = summary(of(study), BOOTSTRAP)
    assert rows["win_rate"].notna().all() and rows["win_rate_low"].isna().all() and rows["welch_p"].isna().all()
    write_report(of(study), study / "report", BOOTSTRAP)
    markdown_table = (study / "report" / "summary.md").read_text()
    assert "| 3m | amal | 1 | 0.90 | 18.0 |" in markdown_table and "nan" not in markdown_table
    page = (study / "report" / "report.html").read_text()
    assert "no interval can be given" in page and "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_unfinished_and_missing_cells_are_listed_and_left_out(tmp_path: Path) -> None:
    write_study(tmp_path)
    set_outcome(tmp_path / "amal" / "3m" / "seed_4", "running")
    (tmp_path / "mappo" / "MMM" / "seed_3" / "run.json").unlink()
    (tmp_path / "mappo" / "8m" / "seed_0").mkdir(parents=True)
    comparison = of(tmp_path)
    assert comparison.seeds == {"3m": [0, 1, 2, 3], "MMM": [0, 1, 2, 4]} and comparison.n_seeds == 4
    assert comparison.absent["mappo", "MMM", 3] == "no run.json yet" == comparison.absent["mappo", "8m", 0]
    assert comparison.absent["amal", "8m", 0] == "missing"
    assert (summary(comparison, BOOTSTRAP)["seeds"] == 4).all()
    text = "\n".join(notes(comparison))
    assert "12 of 30 runs are not there: amal 3m seed_4 (running)" in text and "amal 8m seed_0 (missing)" in text
    assert "another algorithm has not finished that seed: amal MMM seed_3, mappo 3m seed_4" in text
    table = runs(comparison)
    assert len(table) == 30 and table["in_statistics"].sum() == 16
    write_report(comparison, tmp_path / "report", BOOTSTRAP)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "mappo MMM seed_3 (no run.json yet)" in page and "No verdict yet with 4 of at least 5" in page


BREAKAGES = {
    "run.json": [b"\0" * 200, b"", b"[]", b'{"seed": 0}', b"\xff\xfe{", b"[" * 100_000],
    "evaluations.csv": [None, b"", b"\0" * 200, b"a\n1\n"],
    "metrics.csv": [b"\0" * 200, b"env_steps,train/lr\n1,much\n"],
    "final_test.csv": [b"\0" * 200, b"checkpoint,win_rate\nbest,7\nlast,1\n"],
}


def broken_files() -> list[tuple[str, bytes | None]]:
    return [(name, content) for name, contents in BREAKAGES.items() for content in contents]


def break_file(path: Path, content: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(("name", "content"), broken_files())
def test_a_cell_whose_files_are_broken_is_listed_and_left_out(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_study(tmp_path, scenarios=["3m"], seeds=3)
    break_file(tmp_path / "amal" / "3m" / "seed_1" / name, content)
    comparison = of(tmp_path)
    state = comparison.absent["amal", "3m", 1]
    assert state.startswith(f"broken: {tmp_path}/amal/3m/seed_1/{name}: ") and "\n" not in state
    assert comparison.seeds["3m"] == [0, 2] and f"amal 3m seed_1 ({state})" in "\n".join(notes(comparison))
    assert runs(comparison).set_index(["algorithm", "seed"]).loc[("amal", 1), "state"] == state


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("versions", [1], "versions must be a mapping to texts and numbers or nothing, got [1]"),
        ("versions", {"torch": [2]}, "versions must be a mapping to texts and numbers"),
        ("hardware", "x", "hardware must be a mapping to texts and numbers or nothing, got 'x'"),
        ("code_version", 5, "code_version must be a text or nothing, got 5"),
        ("simulator_hash", {}, "simulator_hash must be a text or nothing"),
        ("backend", ["embedded"], "backend must be a text or nothing"),
        ("totals", {"env_steps": float("nan")}, "totals must be a mapping to numbers of at least 0"),
        ("totals", {"env_steps": True}, "totals must be a mapping to numbers of at least 0"),
        ("seed", True, "seed must be a whole number, got True"),
        ("outcome", None, "outcome must be a text, got None"),
    ],
)
def test_a_record_of_a_wrong_type_is_a_broken_file(tmp_path: Path, key: str, value: object, words: str) -> None:
    write_study(tmp_path, scenarios=["3m"], seeds=2)
    path = tmp_path / "amal" / "3m" / "seed_1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert words in of(tmp_path).absent["amal", "3m", 1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("tuned_on", value) for value in (5, "3m", [3], {"3m": 1})),
        *(("scenarios", value) for value in ("3m", [["3m"]], None)),
        *(("algorithms", value) for value in (["mappo"], {"mappo": "x"}, {"mappo": [{"path": 1}]}, {1: []})),
        *(("seeds", value) for value in (5, ["0"], [True])),
        *(("history", value) for value in ([], 5, [5], [{"code_version": 1}])),
        *(("baseline", value) for value in (5, ["mappo"])),
        *(("env_steps", value) for value in ("x", None, 1.5)),
        *(("overrides", value) for value in ("x", [5])),
        *(("created", value) for value in (5, None)),
        ("scenario_files", [1]),
    ],
)
def test_a_plan_of_a_wrong_type_is_one_line(tmp_path: Path, key: str, value: object) -> None:
    write_study(tmp_path, scenarios=["3m"], seeds=1)
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": []}}
    plan |= {"scenarios": ["3m"], "seeds": [0], "history": [{"code_version": "abc"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {key: value}))
    with pytest.raises(ValueError, match=f"study.yaml: {key} must be .*, got ") as error:
        of(tmp_path)
    assert "\n" not in str(error.value)


def test_the_published_plans_are_records() -> None:
    published = sorted((ROOT / "docs" / "results").glob("**/study.yaml"))
    assert len(published) > 5 and all(read_record(path.parent) is not None for path in published)


def test_the_plan_tells_what_is_missing(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["MMM", "3m"], seeds=2)
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": []}}
    plan |= {"scenarios": ["MMM", "3m"], "seeds": [0, 1, 7], "history": [{"code_version": "abc"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {"tuned_on": ["3m"]}))
    comparison = of(tmp_path)
    assert comparison.scenarios() == ["MMM", "3m"]  # in the plan's order
    assert comparison.absent == dict.fromkeys(
        [(algorithm, scenario, 7) for algorithm in ("amal", "mappo") for scenario in ("3m", "MMM")], "missing"
    )
    assert comparison.counted == ["MMM"] and "3m was used for tuning" in "\n".join(notes(comparison))
    rows = make_tables(comparison, BOOTSTRAP)["summary"].set_index(["scenario", "algorithm"])
    assert np.isnan(rows.loc[("3m", "amal"), "welch_p_holm"]) and not np.isnan(rows.loc[("3m", "amal"), "welch_p"])
    write_report(comparison, tmp_path / "report", BOOTSTRAP)
    assert "tuned_on:" in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {"tuned_on": ["3m", "MMM"]}))
    assert verdict_of(of(tmp_path)).headline == (
        "No verdict: on no scenario beside MMM and 3m, which were used for tuning, has a seed been finished by mappo "
        "and amal alike."
    )


def test_a_scenario_just_begun_does_not_cost_the_others_their_seeds(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m", "8m"])
    write_study(tmp_path, scenarios=["MMM"], seeds=1)
    write_run(tmp_path, "mappo", "corridor", 0)
    comparison = of(tmp_path)
    assert comparison.counted == ["3m", "8m"] and comparison.n_seeds == 5
    text = "\n".join(notes(comparison))
    assert "MMM enters no aggregate, correction or verdict: only 1 seed is complete" in text
    assert "corridor enters no aggregate, correction or verdict: not finished by amal" in text
    assert complete_seeds(comparison.runs)["corridor"] == [0]
    assert verdict_of(comparison).headline.startswith("Preliminary: amal is ahead")


def test_nothing_to_compare_is_no_error(tmp_path: Path) -> None:
    write_run(tmp_path, "mappo", "3m", 0)
    write_run(tmp_path, "amal", "3m", 0, outcome="running")
    found = write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP)
    assert found["amal"].headline == "No verdict: on no scenario has a seed been finished by mappo and amal alike."
    assert json.loads((tmp_path / "report" / "marl_eval.json").read_text()) == {}
    set_outcome(tmp_path / "mappo" / "3m" / "seed_0", "interrupted")
    assert write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP) == found


def test_cost_compares_at_equal_wall_time(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "mappo", "3m", seed, 0.8, 4, seconds_per_step=0.01)
        write_run(tmp_path, "amal", "3m", seed, 1.0, 8, seconds_per_step=0.02)
    table = cost(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    assert table.loc["amal", "wall_seconds"] == 400 and table.loc["amal", "peak_memory_mb"] == 1001
    assert (table["equal_wall_seconds"] == 200).all()
    # amal has got to evaluation 10 by then: of its last five, 6 to 10, three are 1
    assert table["win_rate_at_equal_wall_time"].to_dict() == pytest.approx({"mappo": 0.8, "amal": 0.6})


def test_cost_compares_at_equal_policy_steps(tmp_path: Path) -> None:
    for algorithm, steps, arrival in (("mappo", 16, 4), ("amal", 32, 8)):
        path = write_run(tmp_path, algorithm, "3m", 0, 1.0, arrival) / "metrics.csv"
        pd.read_csv(path).assign(**{"train/policy_steps": steps}).to_csv(path, index=False)
    table = cost(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    assert (table["equal_policy_steps"] == 16 * EVALUATIONS).all()
    # amal has made them by evaluation 10: of its last five, 6 to 10, three are 1
    assert table["win_rate_at_equal_policy_steps"].to_dict() == pytest.approx({"mappo": 1.0, "amal": 0.6})


def final_test(run: Path, best: float, last: float) -> None:
    rows = pd.DataFrame({"checkpoint": ["last", "best"], "win_rate": [last, best]})
    others = ("return_mean", "return_std", "episode_length", "dead_allies", "dead_enemies")
    rows.assign(**dict.fromkeys(others, 1.5)).to_csv(run / "final_test.csv", index=False)


def test_the_absolute_metric_is_the_best_checkpoints_where_every_run_was_tested(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    assert "tested_best" not in summary(of(study), BOOTSTRAP)
    for k, path in enumerate(sorted(study.glob("*/3m/seed_*"))):
        assert marl_eval_data(of(study))["smac"]["3m"]["mappo"]["run_1"]["absolute_metrics"]["return"] != [1.5]
        final_test(path, 0.5 + k / 10, 0.25)
    rows = summary(of(study), BOOTSTRAP).set_index("algorithm")
    assert rows["tested_best"].to_dict() == pytest.approx({"amal": 0.55, "mappo": 0.75})
    assert rows["tested_last"].to_dict() == {"amal": 0.25, "mappo": 0.25}
    run = marl_eval_data(of(study))["smac"]["3m"]["mappo"]["run_1"]
    assert run["absolute_metrics"]["win_rate"] == [0.8] and run["absolute_metrics"]["return"] == [1.5]
    write_report(of(study), tmp_path / "report", BOOTSTRAP)
    assert "best, tested" in (tmp_path / "report" / "summary.md").read_text()


def test_diagnostics_are_means_of_what_was_logged(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    (study / "mappo" / "3m" / "seed_0" / "metrics.csv").unlink()
    table = diagnostics(of(study)).set_index(["algorithm", "metric"])
    assert table.loc[("amal", "train/entropy"), "mean"] == pytest.approx(0.5)
    assert table["seeds"].tolist() == [1, 1, 2, 2] and ("amal", "env_steps") not in table.index


def test_says_what_is_unequal(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    path = study / "amal" / "3m" / "seed_1"
    record = json.loads((path / "run.json").read_text()) | {"code_version": "abd-dirty", "simulator_hash": "f01"}
    (path / "run.json").write_text(json.dumps(record))
    pd.read_csv(path / "evaluations.csv").head(15).to_csv(path / "evaluations.csv", index=False)
    text = "\n".join(notes(of(study)))
    assert "2 versions of the simulator: f00, f01" in text and "2 versions of the code: abc, abd-dirty" in text
    assert "not committed" in text and "runs end between 15,000 and 20,000 steps" in text


def test_marl_eval_has_its_schema(tmp_path: Path) -> None:
    data = marl_eval_data(of(write_study(tmp_path, seeds=2)))
    assert list(data) == ["smac"] and list(data["smac"]) == ["3m", "MMM"]
    shapes = {
        (len(steps), tuple(sorted(steps["absolute_metrics"])), tuple(sorted(steps["step_3"])))
        for task in data["smac"].values()
        for algorithm in task.values()
        for steps in algorithm.values()
    }
    metrics = ("dead_allies", "dead_enemies", "episode_length", "return", "win_rate")
    assert shapes == {(51, metrics, tuple(sorted((*metrics, "step_count"))))}
    run = data["smac"]["3m"]["amal"]["run_1"]
    assert list(data["smac"]["3m"]["amal"]) == ["run_0", "run_1"]
    assert (run["step_0"]["step_count"], run["step_49"]["step_count"]) == (1000, 20000)
    assert run["step_0"]["win_rate"] == [0.0] and run["absolute_metrics"]["win_rate"] == [0.92]


def test_the_command_writes_everything(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study")
    cli("report", study, "--resamples", 50)
    printed = capsys.readouterr().out
    assert (
        printed.startswith("Preliminary: amal is ahead of mappo") and f"{study / 'report' / 'report.html'}" in printed
    )
    figures = ["aggregate", "profile", "sample_efficiency", "win_rate_3m", "win_rate_MMM"]
    names = {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    names |= {f"{name}.csv" for name in ("summary", "aggregates", "sample_efficiency", "cost", "runs", "diagnostics")}
    names |= {"summary.md", "summary.tex", "marl_eval.json", "report.html"}
    assert {path.name for path in (study / "report").iterdir()} == names
    page = (study / "report" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page) and "<script" not in page and "url(" not in page
    assert page.count("<img") == len(figures) == page.count('src="data:image/svg+xml;base64,')
    assert 'name="viewport"' in page and "@media print" in page
    assert page.index("Preliminary: amal is ahead") < page.index("smallest possible Mann") < page.index("<h2>")
    tex = (study / "report" / "summary.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == 2 and "MMM & amal & 5 & 0.94 [0.5" in tex
    listed = pd.read_csv(study / "report" / "runs.csv")
    assert all((Path(folder) / "run.json").exists() for folder in listed["folder"]) and len(listed) == 20
    mean = listed[(listed["algorithm"] == "amal") & (listed["scenario"] == "3m")]["final_win_rate"].mean()
    assert mean == pytest.approx(pd.read_csv(study / "report" / "summary.csv")["win_rate"][1])


def test_equal_seeds_give_equal_files(tmp_path: Path, cli: Cli) -> None:
    study = write_study(tmp_path / "study", scenarios=["3m"])
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cli("report", study, "--out", tmp_path / name, "--resamples", 50, "--seed", seed)
    same = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert same == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert same["summary.csv"] != (tmp_path / "c" / "summary.csv").read_bytes()


def test_another_cell_does_not_change_the_intervals_of_the_first(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    first = summary(of(tmp_path), BOOTSTRAP).filter(regex="_(low|high)$")
    write_study(tmp_path, scenarios=["2s3z"])
    both = summary(of(tmp_path), BOOTSTRAP)
    again = both[both["scenario"] == "3m"].filter(regex="_(low|high)$").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, again)


def test_several_algorithms_share_the_baseline(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study", scenarios=["3m"])
    for seed in range(5):
        write_run(study, "amal_no_replay", "3m", seed, 0.5 + seed / 50, 12)
    cli("report", study, "--resamples", 50)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert "amal and amal_no_replay against mappo" in (study / "report" / "report.html").read_text()
    cli("report", study, "--resamples", 50, "--baseline", "amal", "--algorithms", "mappo")
    assert "mappo is behind amal: final win rate behind on the only scenario (3m)" in capsys.readouterr().out
    table = pd.read_csv(study / "report" / "summary.csv")
    assert table["algorithm"].tolist() == ["amal", "mappo"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["study", "--baseline", "mapo"], "--baseline: no algorithm 'mapo' in study (did you mean mappo?)"),
        (["study", "--algorithms", "aml"], "--algorithms: no algorithm 'aml' in study (did you mean amal?)"),
        (["study", "--resamples", "0"], "--resamples must be at least 1"),
        (["study", "--what"], "unrecognized arguments: --what"),
        (["study", "--basline=amal"], "unrecognized arguments: --basline=amal (did you mean --baseline?)"),
        (["study", "--out", "file/report"], "file"),
        ([], "STUDY"),
        (["broken"], "broken: no run in it; 2 are there that cannot be used (broken: broken/amal/3m/seed_0/eval"),
        (["plan"], "not the record of a study: plan/study.yaml: must be a mapping of created"),
        (["study", "--resamples", "100000000000"], "--resamples must be at least 1 and at most 100,000, got 1000"),
        (["study", "--seed", "-1"], "--seed must be at least 0"),
        (["study", "--out", ""], "argument --out: must not be empty"),
        ([""], "argument STUDY: must not be empty"),
        (["study", "--out", "foreign"], "--out foreign: holds precious.csv and no report.html"),
        (["study", "--out", "n" * 300], "File name too long"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("study", "broken", "plan"):
        write_study(Path(name), scenarios=["3m"], seeds=1)
    Path("file").write_text("")
    for path in Path("broken").glob("*/3m/seed_0/evaluations.csv"):
        path.write_text("a\n1\n")
    Path("foreign").mkdir()
    Path("foreign/precious.csv").touch()
    Path("plan/study.yaml").write_text("- 1\n")
    with pytest.raises(SystemExit) as stop:
        main(args)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("error: ") and complaint in error


def test_help_answers_at_once_and_without_the_heavy_libraries() -> None:
    code = "import sys, cli\ntry: cli.main(['report', '--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'pandas', 'scipy', 'matplotlib') if name in sys.modules])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--baseline NAME" in done.stdout and done.stdout.endswith("[]\n") and time.perf_counter() - start < 10


def test_the_report_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    study = write_study(tmp_path, scenarios=["3m"], seeds=1)
    code = f"import sys, cli\ncli.main(['report', {str(study)!r}, '--resamples', '9'])\n"
    code += "print([name for name in ('torch', 'lightning') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_a_failing_figure_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path, scenarios=["3m"], seeds=2)
    write_report(of(study), study / "report", BOOTSTRAP)
    before = {path.name: path.read_bytes() for path in (study / "report").iterdir()}

    def fail(self: Figure, part: Path, **options: object) -> None:
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(of(study), study / "report", BOOTSTRAP)
    assert before == {path.name: path.read_bytes() for path in (study / "report").iterdir()}


def test_an_algorithm_keeps_its_colour() -> None:
    alone, among = styles(["mappo", "amal"]), styles(["amal", "x", "mappo", "ippo", "y"])
    assert alone["mappo"] == among["mappo"] and alone["amal"] == among["amal"]
    assert len(set(among.values())) == 5 and len({colour for colour, _ in among.values()}) == 5


def test_numbers_are_written_for_people() -> None:
    assert [number(x) for x in (0.934, -0.5, -0.001, float("inf"), float("nan"))] == ["0.93", "−0.50", "0.00", "∞", ""]
    assert [p_value(x) for x in (0.0004, 0.04, float("nan"))] == ["<0.001", "0.040", ""]
    table = pd.DataFrame({"a_b": ["x|y"], "p": ["<0.001"], "d": ["−∞"]})
    assert markdown(table) == "| a_b | p | d |\n| --- | --- | --- |\n| x/y | <0.001 | −∞ |\n"
    assert r"a\_b & p & d \\" in latex(table) and r"$<$0.001 & $-$$\infty$" in latex(table)
    names = pd.DataFrame({"a": [r"\input{x}^2~$y"], "b": ["two\nlines"]})
    assert latex(names).splitlines()[4] == (
        r"\textbackslash{}input\{x\}\textasciicircum{}2\textasciitilde{}\$y & two lines \\"
    )
    assert "| two lines |" in markdown(names)


def test_names_are_no_formulas_and_no_markup(tmp_path: Path) -> None:
    names = ["a$x_{$", "$^$", "100%$\\frac{$", "{{DATA}}", "<b>&"]
    write_study(tmp_path, scenarios=names, seeds=2)
    shutil.copytree(tmp_path / "amal", tmp_path / "x$_{$")  # a baseline or a variant may be called anything, too
    write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<b>" not in page and all((tmp_path / "report" / f"win_rate_{name}.svg").exists() for name in names)
