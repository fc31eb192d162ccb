"""What the bench command refuses in any folder, before it measures for minutes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--scenarios", "2m_vs_1x"), "did you mean 2m_vs_1z?"),
        (("--seconds", "-1"), "--seconds must be greater than 0, got -1.0"),
        (("--battles", "0"), "--battles must be at least 1, got 0"),
        (("--algorithms", "mapo"), "no file configs/mapo.yaml (did you mean configs/mappo.yaml?)"),
        (("--algorithms", "mine:mine.yaml,mina.yaml"), "no file mina.yaml (did you mean mine.yaml?)"),
        (("--out", "."), "File exists"),
        (("--out", "n" * 300), "File name too long"),
    ],
)
def test_bad_input_is_one_line_at_once(
    args: tuple[str, ...],
    named: str,
    cli: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli("bench", *args)
    told = capsys.readouterr()
    assert stop.value.code == 2 and named in told.err and told.err.count("\n") == 1 and told.out == ""
