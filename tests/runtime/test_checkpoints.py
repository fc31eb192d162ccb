"""A checkpoint that is damaged or made by hand is told in one line with its name, whatever is wrong with it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amal.runtime.checkpoints import CheckpointError, read_checkpoint
from tests.commands.test_resuming import contents, finished, refusal, resume, run

__all__ = ["finished", "run"]  # fixtures

Cli = Callable[..., None]
Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("mapped", [False, True])
def test_one_changed_bit_in_the_zip_directory_or_a_header_is_refused_or_changes_nothing(
    finished: Path, tmp_path: Path, mapped: bool
) -> None:
    source, path = finished / "checkpoints" / "best.ckpt", tmp_path / "damaged.ckpt"
    good, weights = source.read_bytes(), read_checkpoint(source)["state_dict"]
    directory = int.from_bytes(good[(end := good.rfind(b"PK\5\6")) + 16 : end + 20], "little")
    headers = [at for at in range(len(good)) if good.startswith(b"PK\3\4", at)]
    chance = random.Random(0)
    places = [chance.randrange(directory, len(good)) for _ in range(60)]
    places += [chance.choice(headers) + chance.randrange(80) for _ in range(60)]
    refused = 0
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            got = read_checkpoint(path, mapped)["state_dict"]
            assert got.keys() == weights.keys()
            assert all(torch.equal(got[name], weights[name]) for name in weights)
        except CheckpointError as error:
            refused += 1
            assert str(error).startswith(f"{path}: damaged") and "\n" not in str(error)
    assert refused > 60


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c["state_dict"].update(x=3), "x is a int and should be none"),
        (lambda c: c["state_dict"].update({first(c): 3}), "is a int and should be ["),
        (lambda c: c["state_dict"].update({first(c): c["state_dict"][first(c)].to_sparse()}), "torch.sparse_coo"),
        (lambda c: c["state_dict"].update({first(c): c["state_dict"][first(c)].to("meta")}), "meta) and should be ["),
        (lambda c: c["state_dict"].update({first(c): c["state_dict"][first(c)].long()}), "torch.int64"),
        (lambda c: c["state_dict"][first(c)].fill_(float("nan")), "holds NaN or infinity"),
        (lambda c: c["state_dict"][first(c)][0].fill_(float("inf")), "holds NaN or infinity"),
        (lambda c: c.update(state_dict=[]), "has no state_dict"),
        (lambda c: c.update(RolloutDataModule=5), "RolloutDataModule is a int and no dict"),
        (lambda c: c["RolloutDataModule"].update(scenario=5), "RolloutDataModule.scenario is a int and no dict"),
        (lambda c: c["RolloutDataModule"].update(scenario={"foo": 1}), "RolloutDataModule.scenario has no name"),
        (lambda c: c["RolloutDataModule"]["scenario"].update(name=5), "scenario.name is a int and no str"),
        (
            lambda c: c["RolloutDataModule"]["scenario"].update(random_delay=5),
            "delay is a int and no list | None",
        ),
        (lambda c: c["RolloutDataModule"].update(simulator_hash=5), "simulator_hash is a int and no str"),
    ],
)
def test_weights_that_cannot_be_played_are_refused_by_name(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], damage: Damage, words: str, command: str
) -> None:
    refused(cli, run, capsys, damage, words, command)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: c["RolloutDataModule"].pop("processes"), "it has no RolloutDataModule.processes"),
        (lambda c: c["RolloutDataModule"].update(processes=3), "RolloutDataModule.processes is a int and no list"),
        (lambda c: c["RolloutDataModule"].update(env_steps="x"), "RolloutDataModule.env_steps is a str and no int"),
        (lambda c: c.pop("RolloutDataModule"), "it has no RolloutDataModule"),
        (lambda c: c.update(callbacks=[]), "callbacks is a list and no dict"),
        (lambda c: c.update(loops=None), "loops is a NoneType and no dict"),
        (lambda c: c["RolloutDataModule"].update(processes=[5]), "cannot be resumed"),
        (lambda c: c.update(optimizer_states=[]), "is for playing and cannot be resumed"),
        (lambda c: c.update(optimizer_states=[1, 2]), "cannot be resumed"),
        (lambda c: c["callbacks"]["Evaluation"].pop("rows"), "it has no Evaluation.rows"),
        (lambda c: c["callbacks"].update(Tracking=[1]), "Tracking is a list and no dict"),
        (lambda c: c["callbacks"].update(Tracking={"loggers": 5}), "Tracking.loggers is a int and no list"),
        (lambda c: c["callbacks"].update(Tracking={"loggers": [1]}), "Tracking.loggers are no pairs of texts"),
        (lambda c: c["RolloutDataModule"].update(simulator_hash="\x1b[2J\n"), "simulator ('\\x1b[2J\\n', this"),
        (
            lambda c: c["settings"].update({"data.num_envs": torch.zeros(2)}),
            "data.num_envs was {'not_recorded': 'Tensor'",
        ),
        (lambda c: c.pop("learning_state"), "cannot be resumed"),
        (lambda c: c.update(loops={"fit_loop": 3}), "cannot be resumed"),
    ],
)
def test_a_state_that_training_cannot_go_on_from_is_refused_and_leaves_the_run(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], damage: Damage, words: str
) -> None:
    refused(cli, run, capsys, damage, words, "fit")


@pytest.mark.parametrize("command", ["validate", "test"])
def test_playing_looks_at_the_weights_and_at_how_far_training_was(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content, told = torch.load(path, weights_only=True), []
    for damage in ({}, {"loops": {"fit_loop": 3}, "callbacks": 5, "pytorch-lightning_version": "x", "epoch": "x"}):
        content |= damage
        content["RolloutDataModule"] |= {"processes": ["x"], "wall_seconds": "x"} if damage else {}
        torch.save(content, path)
        capsys.readouterr()
        resume(cli, run, command=command)
        told.append(capsys.readouterr().out)
    assert "eval/win_rate" in told[0] and told[0] == told[1]
    for count in ("env_steps", "episodes"):  # which a team that samples explores by
        words = f"damaged or not written here: RolloutDataModule.{count} is a str and no int"
        refused(cli, run, capsys, lambda c, count=count: c["RolloutDataModule"].update({count: "x"}), words, command)
        torch.save(content, path)


def test_what_playing_tells_of_a_checkpoint_is_printable(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["RolloutDataModule"]["scenario"] = {"name": "\x1b[2J\n", "random_delay": ["\x1b[2J"]}
    content["RolloutDataModule"]["simulator_hash"] = "\x1b[2J"
    torch.save(content, path)
    resume(cli, run, command="validate")
    notes = capsys.readouterr().err
    assert notes.count("note: ") == notes.count("\n") == 3 and "\x1b" not in notes


def first(content: dict[str, Any]) -> str:
    return next(name for name in content["state_dict"] if name.startswith("policy"))


def refused(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], damage: Damage, words: str, command: str) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    damage(content)
    torch.save(content, path)
    before = contents(run)
    here = ("--out", run) if command == "fit" else ()
    message = refusal(capsys, lambda: resume(cli, run, *here, command=command))
    assert f"{path}: " in message and words in message
    after = contents(run)
    assert {name for name in before if before[name] != after[name]} <= {"config.yaml"}
