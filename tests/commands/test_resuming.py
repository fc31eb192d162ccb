"""A run goes on as it began or not at all, and nothing is lost by trying."""

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from amal.runtime.checkpoints import CheckpointError, read_checkpoint
from cli import main
from tests.conftest import ROOT, run_cli
from tests.runs import Cli, assert_equal_parameters, assert_equal_tables, power_cut

TINY = ("--data.env_steps", "300", "--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "8")
ADDED, ALLOWED = ("--trainer.callbacks+",), ("--allow_code", "tests.runtime.fingerprints")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run of MAPPO on 3m; not to be written to."""
    run = tmp_path_factory.mktemp("finished") / "run"
    run_cli("fit", "--config", "configs/mappo.yaml", *TINY, "--out", run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, moved to where its config.yaml does not say."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def resume(cli: Cli, run: Path, *args: object, command: str = "fit", checkpoint: str = "last.ckpt") -> None:
    cli(command, "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / checkpoint, *args)


def refusal(capsys: pytest.CaptureFixture[str], call: Callable[[], None]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert message.startswith("error: ") and message.count("\n") == 1, message
    return message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model.lr", "1e-3"), "model.init_args.lr was 0.0005 and is now 0.001"),
        (("--model.policy", "amal.networks.GRUPolicy"), "model.init_args.policy.class_path was"),
        (("--data.scenario", "2s3z"), "data.scenario was '3m' and is now '2s3z'"),
        (("--data.random_delay", "true"), "data.random_delay was False and is now True"),
        (("--data.env_steps", "200"), "data.env_steps was 300 and is now 200"),
        (("--seed_everything", "1"), "seed_everything was 0 and is now 1"),
        (("--evaluation.every_n_episodes", "16"), "evaluation.every_n_episodes was 8 and is now 16"),
        ((*ADDED, "tests.runtime.fingerprints.Fingerprints", *ALLOWED), "trainer.callbacks"),
    ],
)
def test_other_settings_are_refused_by_name_and_leave_the_run_alone(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    before = contents(run)
    message = refusal(capsys, lambda: resume(cli, run, *args))
    assert words in message and "last.ckpt: made with other settings" in message
    assert contents(run) == before


def test_a_larger_budget_trains_longer_and_is_told(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pd.read_csv(run / "metrics.csv")
    resume(cli, run, "--data.env_steps", "900")
    assert "note: data.env_steps grows from 300 to 900; schedules follow the new budget" in capsys.readouterr().err
    metrics, record = pd.read_csv(run / "metrics.csv"), json.loads((run / "run.json").read_text())
    used = before.iloc[-1]
    assert metrics["env_steps"].iloc[-1] >= 900 and metrics.iloc[: len(before)].equals(before)
    assert record["outcome"] == "finished" and record["budget"]["env_steps"] == 900
    assert record["budget"]["extensions"] == [
        {"env_steps": used["env_steps"], "episodes": used["episodes"], "budget": 300}
    ]
    rates = metrics["train/lr"] / 5e-4  # of the budget that was used before each update
    assert rates[len(before)] == pytest.approx(1 - used["env_steps"] / 900) and rates.iloc[-1] < 0.5
    assert len(pd.read_csv(run / "evaluations.csv")) > len(before)
    resume(cli, run)  # its config.yaml holds the new budget
    assert "has met its budget" in capsys.readouterr().err


def test_a_new_run_begins_with_the_weights_of_another(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of another scenario, where the sizes agree."""
    best = ("--init_from", run / "checkpoints" / "best.ckpt")
    still = ("--config", "configs/mappo.yaml", *TINY, "--model.lr", "1e-30")
    cli("fit", *still, *best, "--out", tmp_path / "new")
    old, new = (read_checkpoint(path / "checkpoints" / "best.ckpt")["state_dict"] for path in (run, tmp_path / "new"))
    assert all(torch.allclose(old[name], new[name], 0, 1e-9) for name in old if name.startswith("policy."))
    assert read_checkpoint(tmp_path / "new" / "checkpoints" / "last.ckpt")["RolloutDataModule"]["episodes"] < 100
    sides = [f"{{side: {side}, centre: [{x}, 16], units: {{marine: 3}}}}" for side, x in (("ally", 9), ("enemy", 20))]
    near = f"{{terrain: simple, episode_limit: 40, attack_point: [9, 16], groups: [{', '.join(sides)}]}}"
    (tmp_path / "near.yaml").write_text(f"scenario: {near}")
    cli("fit", *still, *best, "--data.scenario", tmp_path / "near.yaml", "--out", tmp_path / "other")
    assert "was trained on '3m' and plays 'near" in capsys.readouterr().err
    resume(cli, tmp_path / "new")  # whose first weights are history
    message = refusal(capsys, lambda: cli("fit", *still, *best, "--data.scenario", "2s3z", "--out", tmp_path / "no"))
    assert "best.ckpt: does not fit the model on the scenario 2s3z: policy." in message
    message = refusal(capsys, lambda: cli("fit", *still, "--init_from", "none.ckpt", "--out", tmp_path / "no"))
    assert "none.ckpt: no such file" in message and not (tmp_path / "no").exists()


def test_many_differences_are_counted(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model.lr", "1e-3", "--model.gamma", "0.9", "--model.n_epochs", "1", "--data.num_envs", "1")
    assert " and 1 more; resume with the run's own config.yaml" in refusal(capsys, lambda: resume(cli, run, *args))


def test_what_changes_no_number_may_be_changed(cli: Cli, run: Path) -> None:
    resume(cli, run, "--checkpoint.every_seconds", "60", "--trainer.log_every_n_steps", "5")
    resume(cli, run, *ADDED, "callbacks.Pictures")
    assert (run / "win_rate.png").exists()
    resume(cli, run, "--trainer.callbacks", "[]")


def test_another_simulator_is_refused_for_training_and_told_for_playing(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amal.commands.resuming.simulator_hash", lambda: "0123456789ab")
    assert "this one is 0123456789ab" in refusal(capsys, lambda: resume(cli, run))
    resume(cli, run, command="validate", checkpoint="best.ckpt")
    captured = capsys.readouterr()
    assert "was trained in another simulator" in captured.err and "eval/win_rate" in captured.out


def test_what_a_power_cut_left_in_the_metrics_is_dropped(cli: Cli, run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").write_bytes(before + 5 * b"\0" + b"\n")
    resume(cli, run)
    assert (run / "metrics.csv").read_bytes() == before


def test_a_finished_run_is_left_as_it_is(cli: Cli, run: Path) -> None:
    before = contents(run)
    resume(cli, run)
    after = contents(run)
    assert all(after[name] == before[name] for name in ("evaluations.csv", "metrics.csv", "checkpoints/best.ckpt"))


def test_a_moved_run_goes_on_where_its_checkpoint_lies(
    cli: Cli, finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    resume(cli, run)
    assert f"note: going on in {run}, where the checkpoint lies, not in {finished}" in capsys.readouterr().err
    assert contents(finished) == before


def test_a_checkpoint_that_lies_in_no_run_is_not_resumed(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = Path(shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "stray.ckpt"))
    call = lambda: cli("fit", "--config", run / "config.yaml", "--ckpt_path", stray)  # noqa: E731
    assert "not in the checkpoints/ of a run" in refusal(capsys, call)


def test_the_best_checkpoint_is_for_playing(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, lambda: resume(cli, run, checkpoint="best.ckpt"))
    assert "best.ckpt: is for playing and cannot be resumed" in message and "last.ckpt" in message


def test_a_finished_run_without_learning_state_says_so(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")
    message = refusal(capsys, lambda: resume(cli, run))
    assert "last.ckpt: is for playing and cannot be resumed" in message
    assert message.rstrip().endswith("its run is finished and did not keep its learning state")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_scenario_of_other_sizes_is_refused_in_one_line(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    call = lambda: resume(cli, run, "--data.scenario", "2s3z", command=command, checkpoint="best.ckpt")  # noqa: E731
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    note, message = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "was trained on '3m' and plays '2s3z'" in note
    assert "does not fit the model on the scenario 2s3z: policy." in message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_damaged_checkpoint_is_named_in_one_line_and_kept(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], damage: str, command: str
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    good = path.read_bytes()
    middle = len(good) // 2
    damaged = {
        "truncated": good[:middle],
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "empty": b"",
        "text": b"hello",
    }
    path.write_bytes(damaged[damage])
    before = contents(run)
    message = refusal(capsys, lambda: resume(cli, run, command=command))
    assert f"{path}: damaged" in message
    assert contents(run) == before


def test_a_file_of_torch_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of a run, for it has no state_dict"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_second_run_in_the_same_folder_is_refused(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = lambda: resume(cli, run, "--out", run)  # noqa: E731
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = contents(run)
        assert f"--out {run} is in use: another process writes to it" in refusal(capsys, again)
        assert contents(run) == before


@pytest.mark.parametrize("left", ["run.json", "config.yaml", "metrics.csv", "checkpoints/last.ckpt"])
def test_a_folder_with_anything_of_a_run_is_not_begun_in(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    out = tmp_path / "run"
    (out / left).parent.mkdir(parents=True)
    (out / left).write_bytes(b"mine")
    message = refusal(capsys, lambda: cli("fit", "--config", "configs/mappo.yaml", *TINY, "--out", out))
    assert "holds a run already" in message and ("--ckpt_path" in message) == left.endswith(".ckpt")
    assert contents(out) == {left: b"mine"}


def test_a_row_that_was_being_written_when_the_run_was_killed_is_not_taken_for_one(cli: Cli, run: Path) -> None:
    metrics = run / "metrics.csv"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + b"1")
    (run / "checkpoints" / ".last.12345.ckpt").write_bytes(b"half")
    resume(cli, run)
    assert metrics.read_bytes() == whole
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def test_an_earlier_checkpoint_is_gone_back_to_in_a_folder_of_its_own_only(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = ("--data.env_steps", "1200", "--checkpoint.every_n_episodes", "32")
    whole, fork = tmp_path / "whole", tmp_path / "fork"
    cli("fit", "--config", "configs/mappo.yaml", *TINY, *longer, "--out", whole)
    before = contents(whole)
    message = refusal(capsys, lambda: resume(cli, whole, checkpoint="episode_32.ckpt"))
    assert "which would be lost" in message and "in a folder of its own: --out FOLDER" in message
    assert contents(whole) == before
    occupied = refusal(capsys, lambda: resume(cli, whole, "--out", run, checkpoint="episode_32.ckpt"))
    assert f"--out {run}: holds a run already" in occupied

    with power_cut(after=48):
        resume(cli, whole, "--out", fork, "--checkpoint.every_seconds", "1000", checkpoint="episode_32.ckpt")
    resume(cli, fork)
    assert_equal_tables(whole, fork)
    assert_equal_parameters(whole, fork)
    after = contents(whole)
    assert after == before


def test_an_earlier_checkpoint_is_taken_where_the_last_one_is_of_no_use(cli: Cli, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    shutil.copy(last, run / "checkpoints" / "episode_8.ckpt")
    last.write_bytes(b"broken")
    before = (run / "metrics.csv").read_bytes()
    resume(cli, run, checkpoint="episode_8.ckpt")
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("link", ["checkpoints", "checkpoints/last.ckpt"])
def test_a_checkpoint_behind_a_link_goes_on_in_the_folder_that_names_it(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    elsewhere = tmp_path / "another disk" / "here"
    elsewhere.parent.mkdir()
    shutil.move(run / link, elsewhere)
    (run / link).symlink_to(elsewhere)
    resume(cli, run, "--out", run)
    assert "nothing is left to train" in capsys.readouterr().err


def test_a_finished_run_says_so_and_keeps_its_record(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "run.json").read_bytes()
    resume(cli, run)
    assert f"{run} has met its budget; nothing is left to train" in capsys.readouterr().err
    assert (run / "run.json").read_bytes() == before


def test_the_configuration_that_a_run_of_amal_writes_is_its_own(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of parts of which nothing was set."""
    run = tmp_path / "run"
    cli("fit", "--config", "configs/amal_paper.yaml", "--model.world_model.steps", "1", *TINY, "--out", run)
    resume(cli, run)
    assert f"{run} has met its budget; nothing is left to train" in capsys.readouterr().err
    parts = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert parts["world_model"]["model"]["init_args"]["hidden_dims"] == [256, 256, 128]
    assert parts["information"]["estimator"]["init_args"]["n_policies"] == 10


def test_a_run_names_its_files_so_that_they_are_found_from_any_folder(cli: Cli, finished: Path, tmp_path: Path) -> None:
    best = finished / "checkpoints" / "best.ckpt"
    relative = Path(os.path.relpath(best, ROOT))
    out = tmp_path / "run"
    cli("fit", "--config", "configs/mappo.yaml", *TINY, "--data.opponent", relative, "--out", out)
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["opponent"] == str(best.resolve())
    amal = ("--config", "configs/amal_paper.yaml", "--model.world_model.buffer_folder", os.path.relpath(tmp_path, ROOT))
    cli("fit", *amal, *TINY, "--out", tmp_path / "amal")
    model = yaml.safe_load((tmp_path / "amal" / "config.yaml").read_text())["model"]
    assert model["init_args"]["world_model"]["buffer_folder"] == str(tmp_path.resolve())
    source = Path(os.path.relpath(ROOT / "tests" / "networks" / "epymarl_critics.py", ROOT))
    critic = ("--model.critic", "amal.networks.EPyMARLCritic", "--model.critic.init_args.source")
    theirs = ("--config", "configs/mappo.yaml", *critic, f"{source}:CentralVCritic")
    cli("fit", *theirs, *TINY, "--allow_code", source, "--out", tmp_path / "theirs")
    model = yaml.safe_load((tmp_path / "theirs" / "config.yaml").read_text())["model"]
    assert model["init_args"]["critic"]["init_args"]["source"] == f"{ROOT / source}:CentralVCritic"


@pytest.mark.parametrize(
    ("out", "words"),
    [("", "--out is empty"), (" ", "--out is empty"), ("x" * 300, "cannot be written to: File name too long")],
)
def test_a_folder_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["fit", "--config", str(ROOT / "configs" / "mappo.yaml"), *TINY, "--out", out]
    assert words in refusal(capsys, lambda: main(args))
    assert not list(tmp_path.iterdir())


def test_the_command_to_go_on_can_be_pasted(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run; touch X"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "last.ckpt").write_bytes(b"mine")
    message = refusal(capsys, lambda: cli("fit", "--config", "configs/mappo.yaml", *TINY, "--out", out))
    pasted = shlex.split(message.partition("resume it with ")[2].partition(", or choose")[0])
    assert pasted[:2] == ["amal", "fit"]
    assert pasted[2:] == ["--config", f"{out}/config.yaml", "--ckpt_path", f"{out}/checkpoints/last.ckpt"]
