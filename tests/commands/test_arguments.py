"""Arguments that several commands share: paths, and algorithms by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amal.commands.arguments import algorithm_configs, fail
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["bench", "--out", ""], "--out"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", ""], "--out"),
        (["replay", "--ckpt_path", "", "--out", "a.gif"], "--ckpt_path"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", "a.gif", "--opponent", " "], "--opponent"),
        (["replay", "--ckpt_path", "x.ckpt", "--out", "a.gif", "--config", ""], "--config"),
        (["report", "runs/x", "--out", ""], "--out"),
        (["report", ""], "STUDY|[NAME=]RUN"),
    ],
)
def test_an_empty_path_is_refused(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str], args: list[str], option: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: argument {option}: must not be empty\n"


def test_an_option_is_never_taken_for_a_longer_one(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("bench", "--scenario", "3m")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --scenario 3m (did you mean --scenarios?)\n"


def test_a_message_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("a name: \x1b[2J算法\u202e\n  more")
    assert capsys.readouterr().err == "error: a name: \\x1b[2J算法\\u202e more\n"


def test_an_algorithm_is_found_by_name_in_any_folder_and_a_config_there_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert algorithm_configs("mappo") == ("mappo", [ROOT / "configs" / "mappo.yaml"])
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mappo.yaml").touch()
    assert algorithm_configs("mappo") == ("mappo", [Path("configs/mappo.yaml")])
    assert algorithm_configs("a:critics/film,mappo_gru") == (
        "a",
        [ROOT / "configs" / "critics" / "film.yaml", ROOT / "configs" / "mappo_gru.yaml"],
    )
