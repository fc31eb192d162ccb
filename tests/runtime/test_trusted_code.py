"""A checkpoint or a YAML file from a stranger runs no code unless the person at the keyboard says so."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

Cli = Callable[..., None]
SHORT = ("--data.scenario", "3m", "--data.env_steps", "100")
CRITIC = """
from pathlib import Path

from amal.networks.critics import MAPPOCritic

Path(r"{mark}").touch()


class TheirCritic(MAPPOCritic):
    pass


class TheirOtherCritic:
    def __init__(self, scheme, args):
        raise ValueError
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a stranger, importable as ``stranger_…``, that leaves a mark when it is run."""
    name = f"stranger_{tmp_path.name}"
    file = tmp_path / f"{name}.py"
    file.write_text(CRITIC.format(mark=tmp_path / "mark"))
    monkeypatch.syspath_prepend(tmp_path)
    return file


def refusal(capsys: pytest.CaptureFixture[str], call: Callable[[], None]) -> str:
    with pytest.raises(SystemExit) as stop:
        call()
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
    return message


def config_of(stranger: Path) -> Path:
    config = stranger.with_name("config.yaml")
    config.write_text(
        "model:\n  class_path: amal.algorithms.mappo.MAPPO\n  init_args:\n"
        f"    critic:\n      class_path: {stranger.stem}.TheirCritic\ndata:\n  scenario: 3m\n  env_steps: 100\n"
    )
    return config


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_class_of_a_stranger_is_not_even_imported(
    cli: Cli, stranger: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    out = stranger.with_name("run")
    message = refusal(capsys, lambda: cli(command, "--config", config_of(stranger), "--out", out))
    assert f"{stranger.stem}.TheirCritic is code from outside the project" in message
    assert f"if you trust it, add --allow_code {stranger.stem}\n" in message
    assert not stranger.with_name("mark").exists() and not out.exists()


def test_allowed_code_trains_and_has_to_be_allowed_again(
    cli: Cli, stranger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stranger.with_name("run")
    fit = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(stranger.parent)!r}); import cli; cli.main()"]
    fit += ["fit", "--config", str(config_of(stranger)), "--out", str(run), "--allow_code", stranger.stem]
    subprocess.run(fit, cwd=ROOT, check=True, capture_output=True)
    assert stranger.with_name("mark").exists()
    args = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    for command in ("fit", "validate"):
        assert "--allow_code" in refusal(capsys, lambda: cli(command, *args))  # noqa: B023
    checkpoint = run / "checkpoints" / "last.ckpt"
    replay = lambda: cli("replay", "--ckpt_path", checkpoint, "--out", run / "battle.html")  # noqa: E731
    assert "--allow_code" in refusal(capsys, replay)


def test_a_yaml_cannot_allow_itself(cli: Cli, stranger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(stranger)
    config.write_text(config.read_text() + f"allow_code: {stranger.stem}\n")
    refusal(capsys, lambda: cli("fit", "--config", config))
    assert not stranger.with_name("mark").exists()


@pytest.mark.parametrize("by", ["file", "module"])
def test_the_source_of_an_epymarl_critic_is_code_too(
    cli: Cli, stranger: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    location = str(stranger) if by == "file" else stranger.stem
    args = ("--model.critic", "amal.networks.EPyMARLCritic")
    args += ("--model.critic.init_args.source", f"{location}:TheirOtherCritic", "--out", stranger.with_name("run"))
    call = lambda *more: cli("fit", "--config", "configs/mappo.yaml", *SHORT, *args, *more)  # noqa: E731
    assert f"add --allow_code {location}\n" in refusal(capsys, call)
    assert not stranger.with_name("mark").exists()
    assert "cannot be built" in refusal(capsys, lambda: call(f"--allow_code={location}"))
    assert stranger.with_name("mark").exists()


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "torch.hub.load",
        "torch.load",
        "amal.runtime.source_files.run_file",
        "lightning.pytorch.cli.os.system",
    ],
)
def test_functions_that_run_code_are_refused(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    call = lambda: cli("fit", "--config", "configs/mappo.yaml", *SHORT, "--model.critic", path)  # noqa: E731
    ours = path.partition(".")[0] in ("amal", "lightning", "torch")
    what = "no class that a configuration may name" if ours else "code from outside the project"
    assert f"{path} is {what}" in refusal(capsys, call)


def test_permissions_are_names(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "my critics", "critics.txt/", "jsonargparse"):
        call = lambda: cli("fit", "--config", "configs/mappo.yaml", *SHORT, "--allow_code", name)  # noqa: B023, E731
        refusal(capsys, call)


class Malice:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.mark.parametrize("command", ["fit", "validate", "test", "replay"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_is_data_only(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, how: str
) -> None:
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    content = {"state_dict": {}, "optimizer_states": [], "malice": Malice(tmp_path / "mark")}
    if how == "torch":
        torch.save(content, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps(content))
    (run / "config.yaml").write_text((ROOT / "configs" / "mappo.yaml").read_text() + "  env_steps: 100\n")
    args = ("--config", run / "config.yaml", "--ckpt_path", checkpoint)
    args += ("--out", tmp_path / "battle.html") if command == "replay" else ()
    message = refusal(capsys, lambda: cli(command, *args))
    assert str(checkpoint) in message and ("holds more than data" in message or "damaged or no checkpoint" in message)
    assert not (tmp_path / "mark").exists()
    if command != "replay":
        assert "weights_only: false is refused" in refusal(
            capsys, lambda: cli(command, *args, "--weights_only", "false")
        )
