"""Scenarios in files of the user's own: wherever a name is taken, and refused with file and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
import yaml

from amal.battle import VectorBattle
from amal.battle.scenario import ScenarioError, load_scenario
from amal.commands.compare import main as compare
from amal.commands.scenarios import army
from amal.envs import SMACWrapper, parallel_env, register_scenario
from datamodules import RolloutDataModule
from tests.conftest import ROOT

SCENARIO = """
scenario:
  terrain: simple
  episode_limit: 60
  attack_point: [9, 16]
  groups:
    - {side: ally, centre: [9, 16], units: {marine: 2, ogre: 1}}
    - {side: enemy, centre: [23, 16], units: {zergling: 2}}
"""
UNITS = """
units:
  ogre: {hp: 80, size: 1, speed: 2, attributes: [light], targets: [ground], attack_range: 2, damage: 5, cooldown: 0.5}
"""
TERRAIN = "\nterrain:\n  lawn: |\n" + ("    " + "_" * 32 + "\n") * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ogres.yaml"
    path.write_text(UNITS + TERRAIN + SCENARIO.replace("simple", "lawn"))
    return path


def test_a_file_is_fought_like_a_scenario_that_ships(file: Path) -> None:
    scenario = load_scenario(str(file))
    assert (scenario.name, scenario.source) == ("ogres", file)
    assert scenario.ground.all() and scenario.units[2].hp == 80
    battle = VectorBattle(str(file), 2)
    assert battle.spec.scenario == "ogres" and battle.units[0, 2, 2] == 80
    env = SMACWrapper(str(file))
    np.testing.assert_array_equal(env.reset()[1], battle.state[0])
    np.testing.assert_array_equal(parallel_env(str(file)).reset(seed=0)[0]["agent_0"], battle.obs[0, 0])
    assert register_scenario(str(file)) == "amal/ogres-v0"
    assert gymnasium.make("amal/ogres-v0").reset()[0][0].shape == (battle.spec.obs_dim,)


def test_a_file_is_read_anew_when_it_has_changed(file: Path) -> None:
    before = load_scenario(str(file))
    file.write_text(file.read_text().replace("episode_limit: 60", "episode_limit: 70"))
    after = load_scenario(str(file))
    assert (before.episode_limit, after.episode_limit) == (60, 70) and before.digest != after.digest
    assert load_scenario(str(file), episode_limit=5).spec().episode_limit == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r": expected a mapping, got None"),
        ("- 3m", r": expected a mapping, got \['3m'\]"),
        ("data: {scenario: 3m}", ": missing key 'scenario'"),
        (SCENARIO.replace("scenario:", "scenarios:"), r": missing key 'scenario' \(written 'scenarios'\?\)"),
        (SCENARIO + "unit: {}", r": unknown key 'unit' \(did you mean units\?\)"),
        ("scenario: [", r": line 2: no YAML \(did not find expected node content"),
        ("scenario: \xff", r": line 1: not in UTF-8 \(byte 0xff\)"),
        (SCENARIO, r": scenario: groups\[0\]: units: unknown key 'ogre'.*; known: marine, "),
        (UNITS + SCENARIO.replace("simple", "lawn"), ": scenario: terrain: unknown value 'lawn'"),
        (UNITS.replace("hp: 80", "hp: -1") + SCENARIO, ": units: ogre: hp: expected a number of at least 0, got -1"),
        (UNITS.replace("ogre", "marine") + SCENARIO, ": units: 'marine' ships already; choose another name"),
        (UNITS.replace("ogre", "an ogre") + SCENARIO, ": units: 'an ogre' is no name"),
        (UNITS + "  ogre: {}" + SCENARIO, ": line 4: key 'ogre' is given twice, first in line 3"),
        (UNITS + TERRAIN.replace("lawn", "simple") + SCENARIO, ": terrain: 'simple' ships already"),
        (UNITS + "terrain: {lawn: __}" + SCENARIO, ": terrain: lawn: expected 32 rows of 32 characters"),
        (UNITS + "terrain: lawn" + SCENARIO, ": terrain: expected a mapping, got 'lawn'"),
        (UNITS + SCENARIO.replace("60", "0"), ": scenario: episode_limit: expected a whole number of at least 1"),
        (UNITS + SCENARIO.replace("60", "1.5"), ": scenario: episode_limit: expected a whole number of at least 1"),
        (
            UNITS + SCENARIO.replace("60", "1" + "0" * 20),
            ": scenario: episode_limit: expected .* from 1 to 100000, got 1",
        ),
        (UNITS + SCENARIO.replace("marine: 2", "marine: 9999999999"), r".*units: marine: expected .* from 1 to 1024"),
        (UNITS.replace("hp: 80", "hp: 1" + "0" * 400) + SCENARIO, r": units: ogre: hp: .* from 0 to 1e\+06, got 1000"),
        (UNITS.replace("damage: 5", "attacks: 5000") + SCENARIO, ": units: ogre: attacks: .* from 1 to 1024"),
        (
            '{"name": "3m", "groups": [{"x": 9}]}',
            ": key 'groups' without 'scenario' looks like a map of SMAClite; here",
        ),
        (
            "capability_config: {n_units: 5}",
            ": key 'capability_config' .* SMACv2's .* below 'family': docs/extending.md",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "ogres.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ScenarioError, match=rf"^{path}{message}") as refusal:
        load_scenario(str(path))
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_it_is_refused_by_name(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ScenarioError, match=r"ogre\.yaml: no such file \(did you mean .*ogres\.yaml\?\)"):
        load_scenario(str(tmp_path / "ogre.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ScenarioError, match=r"folder\.yaml: Is a directory"):
        load_scenario(str(tmp_path / "folder.yaml"))
    for name, message in (("3m", "a scenario '3m' ships already"), ("my ogres", "use letters, digits")):
        copy = tmp_path / f"{name}.yaml"
        copy.write_text(file.read_text())
        with pytest.raises(ScenarioError, match=message):
            load_scenario(str(copy))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("10gen_terran", "families terran_5_vs_5 and terran_10_vs_10 here"),
        ("20gen_zerg_epo", "families zerg_5_vs_5 and zerg_10_vs_10 here"),
        ("maps/3m.json", "SMAClite's JSON maps are YAML files here, with terrain, .*: docs/extending.md"),
    ],
)
def test_what_other_projects_call_a_scenario_is_told_its_form_here(name: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=f"^unknown scenario '{name}': .*{words}"):
        load_scenario(name)


def test_settings_of_smacv2_are_told_where_they_have_gone() -> None:
    where = r".*; it is a scenario file here, with allies, enemies, weights and surrounded below 'family': docs/"
    with pytest.raises(TypeError, match="backend 'embedded' has no option 'capability_config'" + where):
        SMACWrapper("terran_5_vs_5", capability_config={"n_units": 5})
    with pytest.raises(ValueError, match="backend 'embedded' has none, got capability_config" + where):
        RolloutDataModule("terran_5_vs_5", backend_options={"capability_config": {}})


BOMBS = """
units:
  bomb:
    {hp: 9, size: 1, speed: 3, attributes: [], targets: [ground], attack_range: 0.1, damage: 9,
     weapon: kamikaze, blast_radius: 2}
scenario:
  terrain: simple
  episode_limit: 60
  attack_point: [9, 16]
  groups:
    - {side: ally, centre: [9, 16], units: {bomb: 1}}
    - {side: enemy, centre: [15, 16], units: {bomb: 1}}
"""


@pytest.mark.parametrize("attacks", [True, False])  # else the enemy blows both up
def test_a_double_knock_out_is_a_victory_as_in_smaclite(tmp_path: Path, attacks: bool) -> None:
    file = tmp_path / "bombs.yaml"
    file.write_text(BOMBS)
    env = SMACWrapper(str(file), reward_sparse=True)
    env.reset()
    done, rewards = False, []
    while not done:
        _, reward, done, info = env.step({0: 6 if attacks and env.available_actions[0, 6] else 1})
        rewards.append(reward[0])
    assert (info["dead_allies"], info["dead_enemies"]) == (1, 1)
    assert info["battle_won"] and not info["truncated"]
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert env.get_stats()["win_rate"] == 1.0


def test_a_run_goes_on_with_its_file_and_never_with_another(
    cli: Callable[..., None], tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = ("--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "0")
    saving = ("--checkpoint.every_n_episodes", "8")
    begin = ("fit", "--config", "configs/mappo.yaml", "--data.scenario", file, *short)
    cli(*begin, *saving, "--data.env_steps", "600", "--out", run)
    record = json.loads((run / "run.json").read_text())
    assert record["scenario"] == "ogres" and record["scenario_sha256"] == load_scenario(str(file)).digest
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["scenario"] == str(file)
    checkpoint = run / "checkpoints" / "episode_8.ckpt"
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    original = file.read_text()
    file.write_text(original.replace("hp: 80", "hp: 81"))
    for command in (
        ("fit", "--config", run / "config.yaml", "--ckpt_path", checkpoint),
        ("validate", "--config", run / "config.yaml", "--ckpt_path", checkpoint),
        ("replay", "--ckpt_path", checkpoint, "--out", tmp_path / "battle.html"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli(*command)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith(f"error: {file} has changed since the checkpoint was made")
        assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept
    file.write_text(original)
    cli("fit", "--config", run / "config.yaml", "--ckpt_path", checkpoint, "--out", tmp_path / "again")
    before, after = (pd.read_csv(folder / "metrics.csv") for folder in (run, tmp_path / "again"))
    assert len(before) > 1
    pd.testing.assert_series_equal(before["train/policy_loss"], after["train/policy_loss"])


def test_a_run_on_a_file_is_named_after_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jsonargparse import Namespace

    from amal.commands.run_folders import run_folder

    monkeypatch.chdir(tmp_path)
    model, data = Namespace(class_path="amal.algorithms.mappo.MAPPO"), Namespace(scenario=str(file))
    trainer = Namespace(default_root_dir=None, fast_dev_run=False)
    config = Namespace(ckpt_path=None, out=None, model=model, data=data, trainer=trainer, seed_everything=3)
    assert run_folder(config) == (Path("runs/mappo-ogres-seed3"), True)


def test_bench_and_scenarios_take_a_file(
    cli: Callable[..., None], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("bench", "--scenarios", file, "--battles", "2", "--seconds", "0.1", "--algorithms")
    assert " ogres " in capsys.readouterr().out
    cli("scenarios", file, "terran_5_vs_5")
    out = capsys.readouterr().out
    assert "ogres: 2 marine, 1 ogre against 2 zergling" in out and "is_marine is_ogre is_zergling" in out
    assert "terran_5_vs_5: 5 of 45% marauder, 45% marine, 10% medivac against 5 of 45% marauder" in out
    assert "a medivac instead: heal ally0 … ally4" in out
    assert army(load_scenario(str(file)), "ally") == "2 marine, 1 ogre"
    assert army(load_scenario("terran_5_vs_5"), "enemy") == "5 of 45% marauder, 45% marine, 10% medivac"
    with pytest.raises(SystemExit):
        cli("scenarios", "2s3y")
    assert "error: unknown scenario '2s3y' (did you mean 2s3z?)" in capsys.readouterr().err


def test_a_study_names_its_cells_after_the_file_and_notices_a_change(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("amal.commands.compare.run", lambda grid, options: len(grid.cells(study)))
    arguments = ["--algorithms", "mappo", "--scenarios", "3m", str(file), "--seeds", "1", "--env_steps", "100"]
    with pytest.raises(SystemExit) as stop:
        compare([*arguments, "--out", str(study)])
    assert stop.value.code == 2
    record = yaml.safe_load((study / "study.yaml").read_text())
    assert record["scenarios"] == ["3m", "ogres"] and record["scenario_files"]["ogres"][0]["path"] == str(file)
    file.write_text(file.read_text() + "# other\n")
    with pytest.raises(SystemExit):
        compare([*arguments, "--out", str(study)])
    assert f"{study} was begun with {file} as 'ogres', which has changed since then" in capsys.readouterr().err
