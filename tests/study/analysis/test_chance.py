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
    with pytest.raises(SystemExit, match="no finished run in"):
        main(tmp_path / "nowhere", out)
