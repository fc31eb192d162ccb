"""Which runs of a study are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from amal.study.analysis.comparison import complete_seeds
from amal.study.analysis.ledger import runs
from amal.study.analysis.tables import summary
from amal.study.report.notes import notes
from amal.study.report.report import make_tables, write_report
from tests.study.studies import BOOTSTRAP, of, set_outcome, verdict_of, write_run, write_study


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
    assert (
        "12 of 30 runs are missing or unfinished: amal 3m seed_4 (running)" in text
        and "amal 8m seed_0 (missing)" in text
    )
    assert "another algorithm has not finished that seed: amal MMM seed_3, mappo 3m seed_4" in text
    table = runs(comparison)
    assert len(table) == 30 and table["in_statistics"].sum() == 16
    assert "mappo MMM seed_3 (no run.json yet)" in text
    assert verdict_of(comparison).headline.startswith("No verdict (4 seeds, 5 needed)")


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


def test_a_folder_whose_name_a_terminal_would_obey_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "\x1b[2J", "3m", 0)
    with pytest.raises(ValueError, match=r"rename the folder '\\x1b\[2J/3m', whose name is not printable"):
        of(tmp_path)


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
    assert comparison.counted == ["MMM"] and "verdict: it was used for tuning." in "\n".join(notes(comparison))
    rows = make_tables(comparison, BOOTSTRAP)["summary"].set_index(["scenario", "algorithm"])
    assert np.isnan(rows.loc[("3m", "amal"), "welch_p_holm"]) and not np.isnan(rows.loc[("3m", "amal"), "welch_p"])
    write_report(comparison, tmp_path / "report", BOOTSTRAP)
    assert "tuned_on:" in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {"tuned_on": ["3m", "MMM"]}))
    assert verdict_of(of(tmp_path)).headline == (
        "No verdict: on no scenario that counts has a seed been finished by mappo and amal."
    )


def test_a_scenario_just_begun_does_not_cost_the_others_their_seeds(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m", "8m"])
    write_study(tmp_path, scenarios=["MMM"], seeds=1)
    write_run(tmp_path, "mappo", "corridor", 0)
    comparison = of(tmp_path)
    assert comparison.counted == ["3m", "8m"] and comparison.n_seeds == 5
    text = "\n".join(notes(comparison))
    assert "MMM is shown, but enters no aggregate, correction or verdict: only 1 seed finished by all" in text
    assert "corridor is shown, but enters no aggregate, correction or verdict: not finished by amal" in text
    assert complete_seeds(comparison.runs)["corridor"] == [0]
    assert verdict_of(comparison).headline.startswith("Preliminary (5 seeds, 10 needed): amal is ahead")


def test_the_family_is_the_plans_and_another_baseline_is_exploratory(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": [], "ippo": []}}
    plan |= {"scenarios": ["3m", "8m", "MMM"], "seeds": [0, 1, 2, 3, 4], "baseline": "mappo", "tuned_on": ["8m"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plan | {"history": [{"code_version": "abc"}]}))
    assert of(tmp_path).family == 2 * 2 * 2, "two algorithms, two scenarios of which one has no runs yet, two tests"
    assert "exploratory" not in "\n".join(notes(of(tmp_path)))
    assert "planned with mappo as the baseline" in "\n".join(notes(of(tmp_path, "amal")))


def test_runs_with_and_without_random_delay_are_not_reported_together(
    tmp_path: Path, cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    for path in (study / "amal").glob("3m/seed_*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"random_delay": [-1, 2]}))
    with pytest.raises(SystemExit) as stop:
        cli("report", study)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and not (study / "report").exists()
    assert error == (
        f"error: {study}: these runs fought different battles, whose win rates do not compare: with random delay "
        "[-1, 2] amal 3m seed_0 and 1 more; without random delay mappo 3m seed_0 and 1 more; report an algorithm alone "
        "with --baseline NAME --algorithms NAME\n"
    )
    cli("report", study, "--baseline", "amal", "--algorithms", "amal", "--resamples", "100")
    assert pd.read_csv(study / "report" / "summary.csv")["algorithm"].tolist() == ["amal"]


def test_a_study_can_be_of_teams_that_sample_their_actions(tmp_path: Path) -> None:
    study = write_study(tmp_path, scenarios=["3m"], seeds=2)
    plan = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"mappo": [], "amal": []}}
    plan |= {"scenarios": ["3m"], "seeds": [0, 1], "history": [{"code_version": "abc"}], "acting": "sampled"}
    (study / "study.yaml").write_text(yaml.safe_dump(plan))
    for file in sorted(study.glob("*/3m/seed_*/evaluations.csv")):
        rows = pd.read_csv(file)
        if file.parent != study / "mappo" / "3m" / "seed_1":
            rows["sampled_win_rate"] = rows["win_rate"] / 2
        rows.to_csv(file, index=False)
    comparison = of(study)
    assert "no win rates of sampled actions" in comparison.absent["mappo", "3m", 1]
    row = summary(comparison, BOOTSTRAP).set_index("algorithm").loc["amal"]
    assert (row["win_rate"], row["greedy_win_rate"]) == (pytest.approx(0.45), pytest.approx(0.9))
    assert any("teams that sample" in note for note in notes(comparison))
    write_report(comparison, study / "report", BOOTSTRAP)
    assert "win rate, greedy" in (study / "report" / "report.html").read_text()
