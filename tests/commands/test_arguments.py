"""What all study commands do with a path that is empty, as that of a variable that is not set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["bench", "--out", ""], "--out"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", ""], "--out"),
        (["replay", "--ckpt_path", "", "--out", "a.gif"], "--ckpt_path"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", "a.gif", "--enemy", " "], "--enemy"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", "a.gif", "--config", ""], "--config"),
        (["report", "runs/x", "--out", ""], "--out"),
        (["report", ""], "STUDY"),
    ],
)
def test_an_empty_path_is_refused(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str], args: list[str], option: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: argument {option}: must not be empty\n"


def test_bench_asks_for_its_folder_before_it_measures(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for out, why in ((tmp_path, "File exists"), (tmp_path / ("n" * 300), "File name too long")):
        with pytest.raises(SystemExit) as stop:
            cli("bench", "--out", out)
        assert stop.value.code == 2 and why in capsys.readouterr().err
