"""What someone who watches a checkpoint's battle would miss if it broke."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario, place
from amal.commands import replay as command
from amal.commands.replay import main as replay
from amal.networks.policies import GRUPolicy
from amal.rollout.collector import EpisodeRecorder, record_battle
from amal.rollout.load_policy import load_player
from amal.viewer import film
from amal.viewer.action_recorder import ActionRecorder, ChosenActions
from amal.viewer.player import action_names, battle_data, fill_page, write_html
from amal.viewer.recording import ALIVE, HP, SHIELD, Recording
from tests.conftest import ROOT, SMAC


class Elements(HTMLParser):
    """All attributes that could load something, and the text of every script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [named[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in named]
        self._inside = named.get("id") or tag if tag in ("script", "style", "title") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def shown(path: Path) -> dict[str, Any]:
    """The data in a page."""
    return json.loads(Elements(path.read_text()).texts["battle"])


def played(name: str, steps: int, first_dead: int | None = None) -> tuple[Recording, ChosenActions]:
    """Units that stand still, with random probabilities; every second action is not available. From the third row on
    the units from ``first_dead`` on are dead."""
    scenario, rng = load_scenario(name), np.random.default_rng(0)
    units = np.zeros((steps + 1, len(scenario.units), 9))
    units[:, :, :2] = place(scenario) + rng.uniform(-0.3, 0.3, (steps + 1, len(scenario.units), 2))
    units[:, :, HP] = [unit.hp * 0.77 for unit in scenario.units]
    units[:, :, SHIELD] = [unit.shield for unit in scenario.units]
    units[:, :, ALIVE] = 1
    if first_dead is not None:
        units[2:, first_dead:, [HP, ALIVE]] = 0
    spec = scenario.spec()
    available = np.tile(np.arange(spec.n_actions) % 2 == 1, (steps, spec.n_agents, 1))
    probabilities = rng.dirichlet(np.full(spec.n_actions, 0.3), (steps, spec.n_agents)) * available
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    chosen = ChosenActions(probabilities.argmax(axis=-1), available, "probability", probabilities)
    return Recording(scenario, units), chosen


def test_the_page_needs_nothing_else_and_tells_every_step(tmp_path: Path) -> None:
    recording, chosen = played("2s3z", 7)
    write_html(recording, chosen, tmp_path / "battle.html", "</script><b>bold</b>")
    page = (tmp_path / "battle.html").read_text()
    assert "{{" not in page and "<b>" not in page and "://" not in page and "url(" not in page and "import" not in page
    elements = Elements(page)
    assert elements.loads == ["data:,"] and "default-src 'none'" in page
    data = shown(tmp_path / "battle.html")
    assert data["title"] == "</script><b>bold</b>" and elements.texts["title"] == "2s3z </script><b>bold</b>"
    assert len(data["frames"]) == 8 and len(data["actions"]) == len(data["scores"]) == 7
    assert data["outcome"] == "draw" and data["field"].startswith("data:image/jpeg;base64,")
    assert all(len(frame) == len(data["units"]) == 10 for frame in data["frames"])
    np.testing.assert_allclose(np.array(data["frames"])[:, :, [0, 1, 3]], recording.units[:, :, [0, 1, HP]], atol=0.05)


@pytest.mark.parametrize("kind", ["probability", "value"])
def test_scores_are_told_of_available_actions_only(kind: Literal["probability", "value"]) -> None:
    recording, chosen = played("27m_vs_30m", 3)
    assert chosen.scores is not None
    scores = chosen.scores if kind == "probability" else np.where(chosen.available_actions, -chosen.scores, -np.inf)
    data = battle_data(recording, replace(chosen, kind=kind, scores=scores), "")
    assert data["kind"] == kind
    for t, offers in enumerate(data["scores"]):
        for n, offer in enumerate(offers):
            assert offer[::2] == np.flatnonzero(chosen.available_actions[t, n]).tolist()
            np.testing.assert_allclose(offer[1::2], scores[t, n, offer[::2]], atol=1e-4)
            assert data["actions"][t][n] in offer[::2]


def test_a_long_battle_of_many_stays_small() -> None:
    recording, chosen = played("27m_vs_30m", load_scenario("27m_vs_30m").episode_limit)
    assert len(fill_page(battle_data(recording, chosen, ""), "")) < 1_500_000


def test_the_dead_have_no_health_and_a_time_of_death() -> None:
    data = battle_data(*played("3m", 4, first_dead=3), "")
    assert [len(row) for row in data["frames"][2]] == [6, 6, 6, 3, 3, 3]
    assert data["deaths"][:3] == [None] * 3 and all(1 <= death <= 2 for death in data["deaths"][3:])
    assert data["outcome"] == "victory"


@pytest.mark.parametrize("name", SMAC)
def test_every_action_has_a_name_and_every_target_a_unit(name: str) -> None:
    scenario = load_scenario(name)
    data = battle_data(*played(name, 1), "")
    longest = max(len(agent["actions"]) for agent in data["agents"])
    assert longest == scenario.n_actions
    for agent in data["agents"]:
        assert len(set(agent["actions"])) == len(agent["actions"]) == 6 + len(agent["targets"])
        for action, target in zip(agent["actions"][6:], agent["targets"], strict=True):
            assert action.endswith(" " + data["units"][target]["name"])


def test_healers_heal_and_others_attack() -> None:
    names = [action_names(load_scenario("MMM"), me) for me in range(10)]
    healer = next(actions for actions in names if any("heal" in action for action in actions))
    assert healer[:7] == [
        *("no-op", "stop", "move north", "move south", "move east", "move west"),
        f"heal {load_scenario('MMM').units[0].name} #0",
    ]
    assert sum(any(action.startswith("attack") for action in actions) for actions in names) == 9


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very short training run on 3m."""
    from cli import main

    folder = tmp_path_factory.mktemp("runs") / "run"
    config = ["--config", str(ROOT / "configs/mappo.yaml"), "--data.scenario", "3m", "--data.episodes", "8"]
    main(["fit", *config, "--data.episodes_per_update", "8", "--out", str(folder)])
    return folder


def save(folder: Path, module: MAPPO, init_args: dict[str, Any], scenario: str = "3m") -> Path:
    """A checkpoint of a module beside its configuration, as a run leaves them."""
    (folder / "checkpoints").mkdir()
    model = {"class_path": f"{type(module).__module__}.{type(module).__name__}", "init_args": init_args}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"scenario": scenario}}))
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "best.ckpt")
    return folder / "checkpoints" / "best.ckpt"


def sizes(scenario: str) -> dict[str, int]:
    spec = load_scenario(scenario).spec()
    return {name: getattr(spec, name) for name in ("n_agents", "n_actions", "obs_dim", "state_dim")}


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


@pytest.mark.parametrize("kind", ["gru", "independent", "amal"])
def test_every_algorithm_plays_as_in_its_rollouts(tmp_path: Path, kind: str) -> None:
    dims = sizes("3m")
    if kind == "gru":
        init_args: dict[str, Any] = {"policy": {"class_path": "amal.networks.GRUPolicy"}}
        module = MAPPO(**dims, policy=GRUPolicy)
    elif kind == "independent":
        init_args = {"share_parameters": False}
        module = MAPPO(**dims, share_parameters=False)
    else:
        init_args = {"num_auxiliary_agents": 2, "cem_population_size": 10}
        module = AMAL(**dims, **init_args)
        init_args["replay_capacity"] = 10**12  # more than any machine has: playing must not ask for it
    checkpoint = save(tmp_path, module, init_args)
    player, scenario = load_player(checkpoint, tmp_path / "config.yaml")
    recorder = ActionRecorder(player)
    batch = EpisodeRecorder(VectorBattle("3m", 1, 0, auto_reset=False), 1).play(recorder, 1)
    chosen = recorder.chosen()
    np.testing.assert_array_equal(chosen.actions, batch.actions[0])
    np.testing.assert_array_equal(chosen.available_actions, batch.available_actions[0, :-1])
    assert chosen.kind == "probability" and chosen.scores is not None
    np.testing.assert_allclose(chosen.scores.sum(axis=-1), 1.0, atol=1e-5)
    assert (chosen.scores[~chosen.available_actions] == 0).all()
    probability = np.take_along_axis(chosen.scores, chosen.actions[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(probability, batch.log_probs[0].exp(), rtol=1e-5)
    trained: Any = module
    np.testing.assert_array_equal(
        record_battle(trained, scenario, 0)[1], record_battle(ActionRecorder(player), scenario, 0)[1]
    )


def test_battles_of_one_seed_differ(run: Path) -> None:
    player, scenario = load_player(run / "checkpoints" / "best.ckpt", run / "config.yaml")
    first, same, other = (record_battle(ActionRecorder(player), scenario, 0, number)[1] for number in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert first.shape != other.shape or (first != other).any()


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
    monkeypatch.setattr(command, "make_replay", None)
    best = run / "checkpoints" / "best.ckpt"
    assert "needs ffmpeg" in failure(capsys, "--ckpt_path", best, "--out", tmp_path / "battle.mp4")


def test_help_waits_for_no_torch() -> None:
    code = "import sys, cli\ntry: cli.main(['replay', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    told, modules = done.stdout.rsplit("\n", 2)[:2]
    assert done.returncode == 0 and "--ckpt_path" in told
    assert not {"torch", "numba", "matplotlib", "PIL"} & set(modules.split())


@pytest.mark.parametrize("name", ["{{DATA}}", "{{SCRIPT}}", "{{TITLE}}{{NOTHING}}", "\\1 \\g<1>"])
def test_a_name_that_looks_like_a_place_of_the_template_is_only_a_name(name: str) -> None:
    page = fill_page({"title": name}, f"3m {name}.ckpt")
    elements = Elements(page)
    assert json.loads(elements.texts["battle"]) == {"title": name}
    assert elements.texts["title"] == f"3m {name}.ckpt" and page.count("<script") == 2
