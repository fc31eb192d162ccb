"""The script that describes the chance study, on runs whose numbers are known."""

from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.study.studies import write_run


def test_the_script_tells_distribution_and_spread_of_each_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "docs" / "chance.py"))["main"]
    study, out = tmp_path / "study", tmp_path / "out"
    for seed in range(2):  # win rates are 0 until the evaluation in which they arrive, of 20
        write_run(study, "without_delay", "3m", seed, final=1.0, arrival=5 + 4 * seed)
        write_run(study, "with_delay", "3m", seed, final=0.25 + 0.5 * seed, arrival=11)
    write_run(study, "with_delay", "3m", 2, outcome="running")
    main(study, out)
    table = pd.read_csv(out / "chance.csv").set_index("battles")
    shares = table[["seeds", "evaluations", "all_lost", "mixed", "all_won"]]
    assert shares.loc["without_delay"].tolist() == [2, 40, 0.3, 0, 0.7]
    assert shares.loc["with_delay"].tolist() == [2, 40, 0.5, 0.5, 0]
    assert table["final"].to_dict() == {"with_delay": 0.5, "without_delay": 1}
    assert table["final_spread"].to_dict() == pytest.approx({"with_delay": 0.5 / 2**0.5, "without_delay": 0}, abs=1e-3)
    assert table["arrived"].to_dict() == {"with_delay": 1, "without_delay": 2}
    # half of the last three evaluations won: in the evaluations 6 and 10
    assert table.loc["without_delay", "log_steps_spread"] == pytest.approx(0.361, abs=1e-3)
    assert (out / "chance.png").stat().st_size > 5000 and "without_delay" in capsys.readouterr().out
    main(out, tmp_path / "again")  # from the rows that it has written
    for file in ("runs.csv", "chance.csv", "chance.png"):
        assert (tmp_path / "again" / file).read_bytes() == (out / file).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required: STUDY, OUT"),
        (["nowhere", "out"], "nowhere: no finished run in ALGORITHM/SCENARIO/seed_K, and no runs.csv"),
        (["docs/results/norms", "out"], "docs/results/norms/runs.csv: is no table of the chance study"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["chance.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "docs" / "chance.py"), run_name="__main__")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1 and words in message
    assert not (tmp_path / "out").exists()
