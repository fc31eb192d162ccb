"""The shipped command line on the shipped configs, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.runs import Cli, assert_learned, fit, parameters


def settings(config: object, *path: str) -> dict[tuple[str, ...], object]:
    """The values of a YAML by their keys, with numbers as numbers however they are written."""
    if isinstance(config, dict):
        return {key: value for name in config for key, value in settings(config[name], *path, name).items()}
    try:
        return {path: float(config)}
    except (TypeError, ValueError):
        return {path: str(config)}


@pytest.mark.parametrize("name", ["amal_paper_tuned", "mappo_epymarl", "mappo_tuned"])
def test_configs_that_nothing_else_here_runs_start(cli: Cli, tmp_path: Path, name: str) -> None:
    budget = ("--data.env_steps", "1", "--evaluation.every_n_episodes", "0")
    cli("fit", "--config", f"configs/{name}.yaml", *budget, "--out", tmp_path / "run")
    assert_learned(tmp_path / "run")
    wanted = yaml.safe_load(Path(f"configs/{name}.yaml").read_text())
    got = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings(wanted["model"]).items() <= settings(got["model"]).items()
    assert settings(wanted["data"]).items() <= settings(got["data"]).items()
    (record,) = pd.read_csv(tmp_path / "run" / "metrics.csv").to_dict("records")
    arguments = got["model"]["init_args"]
    assert record["train/lr"] == pytest.approx(arguments["lr"])
    assert record["train/policy_steps"] == arguments["n_epochs"] * arguments["n_minibatch"]
    assert record["episodes"] == got["data"]["episodes_per_update"]


def test_amal_with_its_parts_switched_off_is_mappo(cli: Cli, tmp_path: Path) -> None:
    mappo = fit(cli, tmp_path / "mappo", "--model.lr", "3e-4")
    off = [f"--model.{part}=null" for part in ("information", "auxiliaries", "replay")]
    amal = fit(cli, tmp_path / "amal", *off, config="configs/amal_paper.yaml")
    ours, theirs = parameters(amal), parameters(mappo)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds") for run in (amal, mappo)]
    assert rows[0].equals(rows[1])


def test_mappo_learns_to_win_3m(cli: Cli, tmp_path: Path) -> None:
    start = ("fit", "--config", "mappo", "--data.scenario", "3m", "--trainer.callbacks+=callbacks.Pictures")
    cli(*start, "--data.env_steps", "40000", "--seed_everything", "2", "--out", tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "evaluations.csv")
    assert rows["win_rate"].tail(5).mean() >= 0.9
    assert (tmp_path / "run" / "win_rate.png").stat().st_size > 5000
    assert (tmp_path / "run" / "battle.gif").read_bytes()[:4] == b"GIF8"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "env_steps"), [("vdn", "30000"), ("qmix", "30000"), ("happo", "25000")])
def test_the_other_baselines_learn_to_win_3m(cli: Cli, tmp_path: Path, name: str, env_steps: str) -> None:
    cli("fit", "--config", f"configs/{name}.yaml", "--data.env_steps", env_steps, "--out", tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "evaluations.csv")
    assert rows["win_rate"].tail(8).mean() >= 0.7  # greedy agents win all battles or none


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configs", "env_steps"),
    [(["qmix"], "100000"), (["mappo_tuned", "networks/entities"], "100000")],
    ids=["qmix", "entities"],
)
def test_they_learn_to_win_2s3z(cli: Cli, tmp_path: Path, configs: list[str], env_steps: str) -> None:
    options = [f"--config=configs/{name}.yaml" for name in configs]
    cli("fit", *options, "--data.scenario=2s3z", "--data.env_steps", env_steps, "--out", tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "evaluations.csv")
    assert rows["win_rate"].tail(5).median() >= 0.9  # greedy agents win all battles or none, and one evaluation can dip
    assert rows["return_mean"].tail(5).mean() >= 16.0  # this moves smoothly


@pytest.mark.parametrize(
    ("config", "weight", "inputs"),
    [("ippo", "critic.layers.first.weight", 30 + 3), ("mappo_gru", "policy.gru.weight_hh", 128)],
)
def test_other_shipped_configs_train(cli: Cli, tmp_path: Path, config: str, weight: str, inputs: int) -> None:
    """IPPO's critic sees an agent's observation and its number, and the recurrent policy's memory learns."""
    options = ("--data.env_steps", "1000", "--checkpoint.every_n_episodes", "32")
    run = fit(cli, tmp_path / "run", *options, config=f"configs/{config}.yaml")
    assert_learned(run)
    last = parameters(run)
    first = torch.load(run / "checkpoints" / "episode_32.ckpt", weights_only=True)["state_dict"]
    assert last[weight].shape[1] == inputs
    networks = [name for name in last if name.startswith(("policy.", "critic."))]
    assert [name for name in networks if torch.equal(last[name], first[name])] == []


def test_configs_compose_and_scenarios_swap(cli: Cli, tmp_path: Path) -> None:
    args = ("--config", "configs/mappo.yaml", "--config", "configs/scenario/2s3z.yaml", "--data.env_steps", "500")
    cli("fit", *args, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scenario"] == "2s3z"


def test_the_light_commands_answer_at_once() -> None:
    """They must not import torch, which alone takes seconds."""
    for args in (["--help"], ["scenarios", "--help"], ["scenarios"], ["bench", "--help"]):
        run = f"try: main({args})\nexcept SystemExit: pass"
        code = f"import sys\nfrom cli import main\n{run}\nassert 'torch' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "scenario" in done.stdout.lower()


def test_an_unknown_command_names_the_nearest(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("ft")
    assert stop.value.code == 2 and "did you mean fit?" in capsys.readouterr().err
