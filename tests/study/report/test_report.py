"""The files of a report."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from amal.study.analysis.tables import summary
from amal.study.report.report import write_report
from tests.study.studies import BOOTSTRAP, of, write_study


def test_one_seed_has_no_interval_and_no_band(tmp_path: Path) -> None:
    study = write_study(tmp_path / "one", seeds=1)
    several = write_study(tmp_path / "several", seeds=2, scenarios=["3m"])
    write_report(of(several), several / "report", BOOTSTRAP)
    rows = summary(of(study), BOOTSTRAP)
    assert rows["win_rate"].notna().all() and rows["win_rate_low"].isna().all() and rows["welch_p"].isna().all()
    write_report(of(study), study / "report", BOOTSTRAP)
    markdown_table = (study / "report" / "summary.md").read_text()
    assert "| 3m | amal | 1 | 0.90 | 18.0 |" in markdown_table and "nan" not in markdown_table
    page = (study / "report" / "report.html").read_text()
    tables = [pd.read_csv(study / "report" / f"{name}.csv") for name in ("summary", "sample_efficiency")]
    tested = [table[name] for table in tables for name in table if re.search(r"_p(_|$)", name)]
    assert len(tested) >= 4 and all(column.isna().all() for column in tested)
    words = re.sub(r"<style>.*?</style>|base64,[^\"]*|<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert "One run of each algorithm allows no test" in words and "takes at least 5 seeds" in words
    for unfounded in ("p-value", "bootstrap", "ands are", "Welch", "MW", "log-rank", "Holm", "Cohen", "‹", "›"):
        assert unfounded not in words + markdown_table, unfounded
    assert "Welch p (Holm)" in (several / "report" / "summary.md").read_text()
    assert "one seed allows no test and no interval" in page and "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_a_failing_figure_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path, scenarios=["3m"], seeds=2)
    (study / "report").mkdir()
    (study / "report" / "aggregate.png").write_bytes(b"old")

    def fail(self: Figure, part: Path, **options: object) -> None:
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(of(study), study / "report", BOOTSTRAP)
    assert [(path.name, path.read_bytes()) for path in (study / "report").iterdir()] == [("aggregate.png", b"old")]


def test_names_are_no_formulas_and_no_markup(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=2)
    for name in ("a$x_{$ $^$", "100%$\\frac{$", "{{DATA}} <b>&"):  # a folder of runs may be called anything
        shutil.copytree(tmp_path / "amal", tmp_path / name)
    write_report(of(tmp_path), tmp_path / "report", BOOTSTRAP)
    page, curves = ((tmp_path / "report" / name).read_text() for name in ("report.html", "win_rate_3m.svg"))
    assert "<b>" not in page and "{{DATA}} &lt;b&gt;&amp;" in page and "frac" in curves
