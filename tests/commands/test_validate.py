"""``validate`` and ``test`` measure as the run did."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.runs import Cli, assert_equal_parameters, fit

COUNTS = ("env_steps", "episodes", "wall_seconds")
SAMPLED = ("sampled_win_rate", "sampled_return_mean")
# where one greedy battle is not like the other, and none is long
RANDOM_UNITS = ("--data.scenario", "terran_5_vs_5", "--data.env_steps", "1000", "--data.episode_limit", "12")


def printed(text: str) -> dict[str, float]:
    """The statistics in the table of validate or test, which are rounded to four decimals."""
    return {name: float(value) for name, value in re.findall(r"eval/(\w+)\s+│\s+(-?\d+\.\d{4}) ", text)}


def test_validate_and_test_use_the_same_measure(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the evaluations of a run: its first one, which here comes at the end, is what validate plays."""
    run = fit(cli, tmp_path / "run", *RANDOM_UNITS, "--evaluation.every_n_episodes", "1000000")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    shown = {}
    for command in ("validate", "test"):
        capsys.readouterr()
        cli(command, "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
        shown[command] = printed(capsys.readouterr().out)
    (evaluation,) = pd.read_csv(run / "evaluations.csv").drop(columns=[*COUNTS]).to_dict("records")
    assert shown["validate"] == pytest.approx(evaluation, rel=0, abs=5.1e-5) and shown["validate"].keys() >= {*SAMPLED}
    assert shown["test"].keys() == shown["validate"].keys() and shown["test"] != shown["validate"]  # other battles
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("configured_by", ["its run", "a file without a budget"])
def test_a_sampling_team_explores_as_far_as_training_was(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], configured_by: str
) -> None:
    """Not as at the start, when every action of VDN's is random."""
    never = ("--model.epsilon_end", "0", "--evaluation.every_n_episodes", "0")
    run = fit(cli, tmp_path / "run", *RANDOM_UNITS, *never, config="configs/vdn.yaml")
    config = ["--config", run / "config.yaml"]
    if configured_by != "its run":
        config = ["--config", "configs/vdn.yaml", "--model.epsilon_end", "0", *RANDOM_UNITS[:2], *RANDOM_UNITS[4:]]
    capsys.readouterr()
    cli("validate", *config, "--ckpt_path", run / "checkpoints" / "last.ckpt")
    shown = printed(capsys.readouterr().out)
    assert shown["sampled_return_mean"] == shown["return_mean"] > 0


def test_a_checkpoint_alone_is_enough(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its run's own configuration is found, as replay finds it."""
    run = fit(cli, tmp_path / "run", "--data.env_steps", "1")
    checkpoint = run / "checkpoints" / "best.ckpt"
    shown = []
    for config in (("--config", run / "config.yaml"), ()):
        capsys.readouterr()
        cli("validate", *config, f"--ckpt_path={checkpoint}")
        shown.append(printed(capsys.readouterr().out))
    assert shown[0] == shown[1]
    alone = tmp_path / "alone" / "best.ckpt"
    alone.parent.mkdir()
    alone.write_bytes(checkpoint.read_bytes())
    for path, words in ((alone, "no configuration of its run"), (tmp_path / "none.ckpt", "no such file")):
        with pytest.raises(SystemExit) as stop:
            cli("validate", "--ckpt_path", path)
        message = capsys.readouterr().err
        assert stop.value.code == 2 and message.count("\n") == 1 and words in message


def test_the_final_test_is_what_test_plays(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    often = (*RANDOM_UNITS, "--evaluation.every_n_episodes", "32")
    tested = fit(cli, tmp_path / "run", *often, "--trainer.callbacks+=callbacks.FinalTest")
    assert_equal_parameters(tested, fit(cli, tmp_path / "plain", *often))
    rows = pd.read_csv(tested / "final_test.csv").set_index("checkpoint")
    for name in ("best", "last"):
        checkpoint = tested / "checkpoints" / f"{name}.ckpt"
        capsys.readouterr()
        cli("test", "--config", tested / "config.yaml", "--ckpt_path", checkpoint)
        greedy = {name: value for name, value in printed(capsys.readouterr().out).items() if name not in SAMPLED}
        assert greedy == pytest.approx(rows.loc[name].to_dict(), rel=0, abs=5.1e-5)
