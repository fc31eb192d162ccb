"""What someone who watches a checkpoint's battle would miss if it broke."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from amal.battle.battlefield import MOVE_ACTIONS
from amal.battle.scenario import load_scenario, with_random_delay
from amal.commands import replay as command
from amal.commands.replay import main as replay
from amal.rollout.collector import record_battle
from amal.types import ActionScores
from amal.viewer import film
from tests.conftest import ROOT
from tests.rollout.actors import RandomActor


def shown(path: Path) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'<script id="battle" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very short training run on 3m."""
    from cli import main

    folder = tmp_path_factory.mktemp("runs") / "run"
    config = ["--config", str(ROOT / "configs/mappo.yaml"), "--data.scenario", "3m", "--data.episodes", "8"]
    main(["fit", *config, "--data.episodes_per_update", "8", "--out", str(folder)])
    return folder


def failure(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as end:
        replay([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_replays_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "FRAMES_PER_STEP", 1)  # enough here, and quicker
    for checkpoint, out in (("best.ckpt", "a.html"), ("last.ckpt", "deep/battle.gif"), ("best.ckpt", "b.html")):
        replay(["--ckpt_path", str(run / "checkpoints" / checkpoint), "--out", str(tmp_path / out), "--seed", "3"])
    data = shown(tmp_path / "a.html")
    assert data["scenario"] == "3m" and data["title"] == "MAPPO · best.ckpt · battle 0 of seed 3"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    told = capsys.readouterr().out.splitlines()[0]
    assert told.startswith(f"{tmp_path / 'a.html'}: {data['outcome']} after {len(data['actions'])} steps")
    with Image.open(tmp_path / "deep" / "battle.gif") as gif:
        assert gif.format == "GIF" and getattr(gif, "n_frames", 1) > 5
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.html", "deep"}


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("battle.avi", "the suffix must be one of .gif, .mp4, .html"),
        ("battle", "the suffix must be one of .gif, .mp4, .html"),
        ("file/battle.gif", "cannot write into"),
        ("folder.gif", "is a folder"),
    ],
)
def test_a_bad_out_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, complaint: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.gif").mkdir()
    assert complaint in failure(capsys, "--ckpt_path", run / "checkpoints" / "best.ckpt", "--out", tmp_path / out)
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder.gif"}


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, out = run / "checkpoints" / "best.ckpt", ("--out", tmp_path / "battle.html")
    assert "none.ckpt: no such file" in failure(capsys, "--ckpt_path", run / "none.ckpt", *out)
    assert "none.yaml: No such file" in failure(capsys, "--ckpt_path", best, "--config", tmp_path / "none.yaml", *out)
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(b"no checkpoint")
    assert "no configuration" in failure(capsys, "--ckpt_path", alone, *out)
    config = ("--config", run / "config.yaml")
    assert ": damaged or no checkpoint" in failure(capsys, "--ckpt_path", alone, *config, *out)
    torch.save({"weights": {}}, alone)
    assert "no state_dict" in failure(capsys, "--ckpt_path", alone, *config, *out)
    assert "at least 0" in failure(capsys, "--ckpt_path", best, "--battle", "-1", *out)
    assert "--out" in failure(capsys, "--ckpt_path", best)
    assert [path.name for path in tmp_path.iterdir()] == ["alone.ckpt"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scenario": "8m"}, "does not fit"),
        ({"scenario": "2s3y"}, "did you mean 2s3z?"),
        ({"class_path": "amal.algorithms.mappo.MAPO"}, "MAPO"),
        ({"init_args": {"gamma": 2.0}}, "gamma"),
        ({"init_args": {"gama": 0.9}}, "gama"),
        ({"init_args": {"policy": {"class_path": "amal.networks.GRUPolicy"}}}, "policy"),
        ({"init_args": "x"}, "model.init_args must be a mapping, got 'x'"),
        ({"init_args": {"critic": None}}, "critic"),
        ({"init_args": {"share_parameters": None}}, "Expected a <class 'bool'>. Got value: None"),
        ({"scenario": 5}, "data.scenario must be a name or a file, got 5"),
        ({"episode_limit": "x"}, "data.episode_limit must be a whole number of at least 1, got 'x'"),
        ({"episode_limit": 1.5}, "data.episode_limit must be a whole number of at least 1, got 1.5"),
        ({"episode_limit": True}, "data.episode_limit must be a whole number of at least 1, got True"),
        ({"backend": ["embedded"]}, "battles of backend ['embedded'] cannot be drawn"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], complaint: str
) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in change.items():
        content["data" if key in ("scenario", "episode_limit", "backend") else "model"][key] = value
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    best, out = run / "checkpoints" / "best.ckpt", tmp_path / "battle.html"
    assert complaint in failure(capsys, "--ckpt_path", best, "--config", config, "--out", out)
    assert not out.exists()


def test_a_failure_while_writing_leaves_the_old_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "battle.html"
    out.write_text("old")

    def full(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    best = run / "checkpoints" / "best.ckpt"
    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left" in failure(capsys, "--ckpt_path", best, "--out", out)
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_without_ffmpeg_a_film_is_refused_at_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "play_and_draw", None)
    best = run / "checkpoints" / "best.ckpt"
    assert "needs ffmpeg" in failure(capsys, "--ckpt_path", best, "--out", tmp_path / "battle.mp4")


def test_help_waits_for_no_torch() -> None:
    code = "import sys, cli\ntry: cli.main(['replay', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    told, modules = done.stdout.rsplit("\n", 2)[:2]
    assert done.returncode == 0 and "--ckpt_path" in told
    assert not {"torch", "numba", "matplotlib", "PIL"} & set(modules.split())


class Attackers(RandomActor):
    """Who go east and shoot, whatever a policy may have learned."""

    def act(self, obs: Any, available: torch.Tensor, hidden: torch.Tensor, *others: Any) -> Any:
        east = torch.tensor([3, 1, 0, 0, 2, 0] + [4] * (available.shape[-1] - MOVE_ACTIONS))
        actions = torch.where(available, east, -1).argmax(dim=-1)
        return actions, torch.zeros(actions.shape), hidden


def test_battles_of_one_seed_differ() -> None:
    scenario = with_random_delay(load_scenario("2s3z"), True)
    first, same, other = (record_battle(Attackers(), scenario, 0, number)[1] for number in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert first.shape != other.shape or (first != other).any()


# --- algorithms without a policy ------------------------------------------------------------------------------------

TRUST = ("--allow_code", "tests.algorithms.own_algorithm")


@pytest.fixture(scope="module")
def q_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very short run of a value-based algorithm on 3m."""
    from cli import main

    folder = tmp_path_factory.mktemp("runs")
    (folder / "q.yaml").write_text(
        "model: {class_path: tests.algorithms.own_algorithm.QLearning}\ndata: {scenario: 3m}\n"
    )
    size = ["--data.episodes", "8", "--data.episodes_per_update", "8", "--data.episode_limit", "10"]
    main(["fit", "--config", str(folder / "q.yaml"), *size, *TRUST, "--out", str(folder / "run")])
    return folder / "run"


def test_values_are_shown_as_values(q_run: Path, tmp_path: Path) -> None:
    best = str(q_run / "checkpoints" / "best.ckpt")
    replay(["--ckpt_path", best, "--out", str(tmp_path / "battle.html"), *TRUST])
    data = shown(tmp_path / "battle.html")
    assert data["kind"] == "value" and data["title"] == "QLearning · best.ckpt · battle 0 of seed 0"
    for actions, offers in zip(data["actions"], data["scores"], strict=True):
        for action, offer in zip(actions, offers, strict=True):
            values = dict(zip(offer[::2], offer[1::2], strict=True))
            assert values[action] == max(values.values())
    assert any(value < 0 for offers in data["scores"] for offer in offers for value in offer[1::2])


def test_films_and_opponents_need_no_policy(q_run: Path, tmp_path: Path) -> None:
    best = str(q_run / "checkpoints" / "best.ckpt")
    replay(["--ckpt_path", best, "--opponent", best, "--out", str(tmp_path / "battle.gif"), *TRUST])
    assert (tmp_path / "battle.gif").read_bytes()[:4] == b"GIF8"


def test_an_algorithm_that_tells_no_scores_is_played_without(q_run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((q_run / "config.yaml").read_text())
    config["model"]["init_args"]["tells"] = False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    out = ["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "battle.html")]
    replay(["--ckpt_path", str(q_run / "checkpoints" / "best.ckpt"), *out, *TRUST])
    data = shown(tmp_path / "battle.html")
    assert data["kind"] is None and data["scores"] is None and len(data["actions"]) == len(data["frames"]) - 1


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        (ActionScores("value", torch.zeros(1, 3, 2)), "expected scores [1, 3, 9], got [1, 3, 2]"),
        (ActionScores("value", torch.full((1, 3, 9), torch.nan)), "the score of an available action is not finite"),
        (ActionScores("probability", torch.ones(1, 3, 9)), "do not add up to 1"),
        (ActionScores("q", torch.ones(1, 3, 9)), "kind must be 'probability' or 'value', got 'q'"),  # type: ignore[arg-type]
    ],
)
def test_unusable_scores_are_one_line(
    q_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scores: ActionScores,
    complaint: str,
) -> None:
    monkeypatch.setattr("tests.algorithms.own_algorithm.QLearning.action_scores", lambda *_: scores)
    best, out = q_run / "checkpoints" / "best.ckpt", tmp_path / "battle.html"
    assert complaint in failure(capsys, "--ckpt_path", best, "--out", out, *TRUST)
    assert not out.exists()


def test_what_cannot_play_is_one_line(q_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text((q_run / "config.yaml").read_text().replace("QLearning", "Silent"))
    best, out = q_run / "checkpoints" / "best.ckpt", tmp_path / "battle.html"
    said = failure(capsys, "--ckpt_path", best, "--config", config, "--out", out, *TRUST)
    assert "Silent" in said
