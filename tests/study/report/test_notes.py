"""What a report says beside its verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from amal.study.report.notes import least_p_value, notes
from amal.study.report.report import write_report
from tests.study.studies import BOOTSTRAP, of, set_protocol, write_study


def test_says_what_the_rank_test_can_reach(tmp_path: Path) -> None:
    assert least_p_value(5) == pytest.approx(2 / 252) and least_p_value(3) == pytest.approx(0.1)
    enough = notes(of(write_study(tmp_path / "a")))[0]
    assert "p-value is 0.0079, and 0.032 after Holm's correction over the study's 4 tests." in enough
    few = notes(of(write_study(tmp_path / "b", seeds=3)))[0]
    assert few.startswith("With 3 runs of each") and "0.4 after Holm's" in few and "takes at least 5 seeds" in few


def test_the_report_tells_the_recorded_evaluation_protocol(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    folders = sorted(study.glob("*/3m/seed_*"))
    for folder in folders:
        set_protocol(folder, every_n_episodes=50, episodes=64, test_episodes=100)
    write_report(of(study), study / "report", BOOTSTRAP)
    page = (study / "report" / "report.html").read_text()
    for words in ("Win rate in 64 greedy battles", "Tested: 100 fresh battles", "An evaluation is 64 battles"):
        assert words in page
    assert not re.search(r"\b(32|320)\b", re.sub(r"<style>.*?</style>|base64,[^\"]*", "", page))
    assert "evaluated differently" not in page
    set_protocol(folders[0], every_n_episodes=100, episodes=32, test_episodes=100)
    text = "\n".join(notes(of(study)))
    assert "The runs were evaluated differently: 32 or 64 battles of each evaluation." in text
    assert "50 or 100 training episodes between evaluations." in text and "final test" not in text


def test_says_what_is_unequal(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    path = study / "amal" / "3m" / "seed_1"
    record = json.loads((path / "run.json").read_text()) | {"code_version": "abd-dirty", "simulator_hash": "f01"}
    (path / "run.json").write_text(json.dumps(record))
    pd.read_csv(path / "evaluations.csv").head(15).to_csv(path / "evaluations.csv", index=False)
    text = "\n".join(notes(of(study)))
    assert "2 versions of the simulator: f00, f01" in text and "2 versions of the code: abc, abd-dirty" in text
    assert "uncommitted changes" in text and "runs end between 15,000 and 20,000 steps" in text
