"""The shipped command line on the shipped configs, as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from amal.algorithms.mappo import MAPPO
from amal.types import Actor, EpisodeBatch
from datamodules.episode_source import EpisodeSource
from tests.conftest import ROOT

Cli = Callable[..., None]
COUNTS = ("env_steps", "episodes", "wall_seconds")
SHORT = ("--data.scenario", "3m", "--data.env_steps", "3000")
# where one greedy battle is not like the other, and none is long
RANDOM_UNITS = ("--data.scenario", "terran_5_vs_5", "--data.env_steps", "1000", "--data.episode_limit", "12")


def fit(cli: Cli, out: Path, *args: str, config: str = "configs/mappo.yaml") -> Path:
    cli("fit", "--config", config, *SHORT, "--out", out, *args)
    return out


def parameters(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def assert_learned(run: Path) -> None:
    """It ended well, nothing diverged, and its last update moved policy and critic."""
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"
    metrics = pd.read_csv(run / "metrics.csv").filter(regex="loss|entropy|kl|norm|explained|return")
    assert len(metrics) > 0 and metrics.apply(lambda column: column.abs() < float("inf")).all(axis=None)
    assert (metrics.filter(regex="_grad_norm") > 0).all(axis=None)


def settings(config: object, *path: str) -> dict[tuple[str, ...], object]:
    """The values of a YAML by their keys, with numbers as numbers however they are written."""
    if isinstance(config, dict):
        return {key: value for name in config for key, value in settings(config[name], *path, name).items()}
    try:
        return {path: float(config)}
    except (TypeError, ValueError):
        return {path: str(config)}


def printed(text: str) -> dict[str, float]:
    """The statistics in the table of validate or test."""
    return {name: float(value) for name, value in re.findall(r"eval/(\w+)\s+│\s+([-+.\de]+)", text)}


def assert_equal_parameters(first: Path, second: Path) -> None:
    ours, theirs = parameters(first), parameters(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["amal_tuned", "mappo_epymarl", "mappo_tuned"])
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


def test_a_run_leaves_what_the_study_reads(cli: Cli, tmp_path: Path) -> None:
    run = fit(cli, tmp_path / "run", "--checkpoint.every_n_episodes", "64", "--evaluation.every_n_episodes", "50")
    evaluations = pd.read_csv(run / "evaluations.csv")
    assert list(evaluations.columns) == [
        *(*COUNTS, "win_rate", "return_mean", "return_std", "episode_length", "dead_allies", "dead_enemies"),
    ]
    assert (evaluations["episodes"].diff().dropna() > 0).all() and evaluations["env_steps"].iloc[-1] >= 3000
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["env_steps"].is_monotonic_increasing and metrics["env_steps"].iloc[-1] >= 3000
    assert metrics.notna().all(axis=None) and "train/approx_kl" in metrics
    record = json.loads((run / "run.json").read_text())
    assert record["outcome"] == "finished" and record["algorithm"] == "MAPPO" and record["scenario"] == "3m"
    assert record["totals"]["env_steps"] == metrics["env_steps"].iloc[-1]
    assert record["evaluation"] == {"every_n_episodes": 50, "episodes": 32, "test_episodes": 320}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 0 and config["model"]["init_args"]["lr"] == 5e-4
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"last.ckpt", "best.ckpt"} < names and any(name.startswith("episode_") for name in names)


def test_equal_seeds_give_equal_runs_and_evaluations_change_nothing(cli: Cli, tmp_path: Path) -> None:
    first, second = (fit(cli, tmp_path / name) for name in "ab")
    without = fit(cli, tmp_path / "c", "--evaluation.every_n_episodes", "0")
    other = fit(cli, tmp_path / "d", "--seed_everything", "1")
    rows = [pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds") for run in (first, second)]
    assert rows[0].equals(rows[1])
    assert_equal_parameters(first, second)
    assert_equal_parameters(first, without)
    assert any(
        not torch.equal(a, b) for a, b in zip(parameters(first).values(), parameters(other).values(), strict=True)
    )
    assert not (without / "evaluations.csv").exists()


@pytest.mark.parametrize("config", ["configs/mappo.yaml", "configs/amal.yaml"])
def test_the_number_of_threads_changes_nothing(tmp_path: Path, config: str) -> None:
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        args = ["--config", config, "--data.scenario", "2s3z", "--data.env_steps", "2500"]
        command = [sys.executable, "cli.py", "fit", *args, "--out", str(tmp_path / threads)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        assert json.loads((tmp_path / threads / "run.json").read_text())["hardware"]["torch_threads"] == int(threads)
    assert_equal_parameters(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("config", ["configs/mappo.yaml", "configs/amal.yaml"])
def test_an_interrupted_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    longer = ("--data.env_steps", "6000")
    whole, part = fit(cli, tmp_path / "whole", *longer, config=config), tmp_path / "part"
    play = EpisodeSource.play_training

    def play_until_the_power_fails(source: EpisodeSource, actor: Actor) -> EpisodeBatch:
        if source.budget.episodes >= 180:  # an update after the last checkpoint
            raise RuntimeError("power cut")
        return play(source, actor)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="power cut"):
        broken.setattr(EpisodeSource, "play_training", play_until_the_power_fails)
        fit(cli, part, *longer, config=config)
    assert json.loads((part / "run.json").read_text())["outcome"] == "failed: RuntimeError: power cut"
    cli("fit", "--config", part / "config.yaml", "--ckpt_path", part / "checkpoints" / "last.ckpt")
    assert_equal_parameters(whole, part)
    for file in ("evaluations.csv", "metrics.csv"):
        expected, got = (pd.read_csv(run / file) for run in (whole, part))
        timing = [column for column in expected if "second" in column]
        pd.testing.assert_frame_equal(expected.drop(columns=timing), got.drop(columns=timing))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_tells_how_to_go_on(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    longer = ("--data.env_steps", "12000")
    whole, part = fit(cli, tmp_path / "whole", *longer), tmp_path / "part"
    command = [sys.executable, "cli.py", "fit", "--config", "configs/mappo.yaml", *SHORT, *longer, "--out", str(part)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (part / "metrics.csv").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert json.loads((part / "run.json").read_text())["outcome"] == "interrupted"
    assert "Traceback" not in errors
    go_on = errors.strip().splitlines()[-1].partition("go on with: python cli.py ")[2]
    cli(*go_on.split())
    assert_equal_parameters(whole, part)
    rows = [pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds") for run in (whole, part)]
    assert rows[0].equals(rows[1])


def test_amal_with_its_parts_switched_off_is_mappo(cli: Cli, tmp_path: Path) -> None:
    mappo = fit(cli, tmp_path / "mappo", "--model.lr", "3e-4")
    off = ("--model.lambda_info", "0", "--model.num_auxiliary_agents", "0", "--model.replay_coef", "0")
    amal = fit(cli, tmp_path / "amal", *off, config="configs/amal.yaml")
    ours, theirs = parameters(amal), parameters(mappo)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds") for run in (amal, mappo)]
    assert rows[0].equals(rows[1])


def test_mappo_learns_to_win_3m(cli: Cli, tmp_path: Path) -> None:
    cli("fit", "--config", "configs/quickstart.yaml", "--data.env_steps", "60000", "--out", tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "evaluations.csv")
    assert rows["win_rate"].tail(5).mean() >= 0.9
    assert (tmp_path / "run" / "win_rate.png").stat().st_size > 5000
    assert (tmp_path / "run" / "battle.gif").read_bytes()[:4] == b"GIF8"


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


@pytest.mark.parametrize("config", ["configs/mappo_gru.yaml", "configs/amal.yaml"])
def test_they_train_in_mixed_precision(cli: Cli, tmp_path: Path, config: str) -> None:
    """Nearly what full precision learns, and not the same."""
    runs = {}
    for precision in ("32-true", "bf16-mixed"):
        options = ("--data.env_steps", "1", "--evaluation.every_n_episodes", "0", "--trainer.precision", precision)
        runs[precision] = fit(cli, tmp_path / precision, *options, config=config)
        assert_learned(runs[precision])
    full, mixed = (parameters(run) for run in runs.values())
    for name in (name for name in full if name.startswith(("policy.", "critic.")) and full[name].is_floating_point()):
        assert mixed[name].dtype == torch.float32 and not torch.equal(full[name], mixed[name])
    told = [pd.read_csv(run / "metrics.csv")[["train/entropy", "train/value_loss"]].iloc[-1] for run in runs.values()]
    assert told[1].tolist() == pytest.approx(told[0].tolist(), rel=0.05)


def test_lightnings_profilers_change_neither_numbers_nor_threads(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy and critic learn at the same time, which those that come with Lightning cannot follow."""
    critic_step, used = MAPPO.critic_step, set()

    def watched(*args: Any) -> Any:
        used.add(threading.current_thread())
        return critic_step(*args)

    monkeypatch.setattr(MAPPO, "critic_step", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name in ("null", "simple", "advanced"):
            fit(cli, tmp_path / name, "--trainer.profiler", name)
            updates = len(pd.read_csv(tmp_path / name / "metrics.csv"))
            assert len(used) == updates and threading.main_thread() not in used, "a thread for each update"
            used.clear()
    finally:
        torch.set_num_threads(threads)
    for name in ("simple", "advanced"):
        assert_equal_parameters(tmp_path / "null", tmp_path / name)
    assert "".join(capfd.readouterr()).count("policy_and_critic") == 2, "in the report of each profiler"


def test_configs_compose_and_scenarios_swap(cli: Cli, tmp_path: Path) -> None:
    args = ("--config", "configs/mappo.yaml", "--config", "configs/scenario/2s3z.yaml", "--data.env_steps", "500")
    cli("fit", *args, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["scenario"] == "2s3z"


def test_validate_and_test_use_the_same_measure(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the evaluations of a run: its first one, which here comes at the end, is what validate plays."""
    run = fit(cli, tmp_path / "run", *RANDOM_UNITS, "--evaluation.every_n_episodes", "1000000")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    shown = {}
    for command in ("validate", "test"):
        capsys.readouterr()
        cli(command, "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
        shown[command] = printed(capsys.readouterr().out)
    (evaluation,) = pd.read_csv(run / "evaluations.csv").drop(columns=list(COUNTS)).to_dict("records")
    assert shown["validate"] == pytest.approx(evaluation, rel=1e-6)
    assert shown["test"].keys() == shown["validate"].keys() and shown["test"] != shown["validate"]  # other battles
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_final_test_is_what_test_plays(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    often = (*RANDOM_UNITS, "--evaluation.every_n_episodes", "32")
    tested = fit(cli, tmp_path / "run", *often, "--trainer.callbacks+=callbacks.FinalTest")
    assert_equal_parameters(tested, fit(cli, tmp_path / "plain", *often))
    rows = pd.read_csv(tested / "final_test.csv").set_index("checkpoint")
    for name in ("best", "last"):
        checkpoint = tested / "checkpoints" / f"{name}.ckpt"
        capsys.readouterr()
        cli("test", "--config", tested / "config.yaml", "--ckpt_path", checkpoint)
        assert printed(capsys.readouterr().out) == pytest.approx(rows.loc[name].to_dict(), rel=1e-6)


def test_loggers_take_the_runs_folder(cli: Cli, tmp_path: Path) -> None:
    for name in ("wandb", "tensorboard"):
        run = fit(cli, tmp_path / name, "--config", f"configs/logger/{name}.yaml", "--data.env_steps", "500")
        assert (run / "evaluations.csv").exists()
    assert list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))


def test_a_finished_run_is_not_overwritten(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(cli, tmp_path / "run", "--data.env_steps", "500")
    before = (run / "evaluations.csv").read_bytes()
    with pytest.raises(SystemExit) as stop:
        fit(cli, run)
    assert stop.value.code == 2 and "holds a run already" in capsys.readouterr().err
    assert (run / "evaluations.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--data.scenario", "mmm"), "unknown scenario 'mmm' (did you mean MMM?)"),
        (("--data.scenario", "2s3x"), "unknown scenario '2s3x' (did you mean 2s3z?)"),
        (("--data.num_envs", "x"), "data.num_envs"),
        (("--data.num_envs", "64"), "num_envs must be at most episodes_per_update (32), got 64"),
        (("--data.episodes", "10"), "env_steps and episodes are both set"),
        (("--model.lr", "-1"), "lr must be greater than 0, got -1.0"),
        (("--data.num_envs", "0"), "num_envs must be at least 1, got 0"),
        (("--data.num_envs", "2.5"), "data.num_envs"),
        (("--data.opponent", "nowhere.ckpt"), "nowhere.ckpt: no such file"),
        (("--data.opponent", "README.md"), "README.md: no configuration of its run: no config.yaml in"),
        (("--data.scenario", "5m_vs_6m", "--data.opponent", "x.ckpt"), "allies are 5 marine and the enemies 6 marine"),
        (("--data.episode_limit", "0"), "episode_limit must be at least 1, got 0"),
        (("--data.episodes_per_update", "-3"), "episodes_per_update must be at least 1, got -3"),
        (("--data.env_steps", "many"), "data.env_steps"),
        (("--data.env_steps", "-5"), "env_steps must be at least 1, got -5"),
        (("--data.senario", "3m"), "--data.senario 3m (did you mean --data.scenario?)"),
        (("--data.num_env", "4"), "--data.num_env 4 (did you mean --data.num_envs?)"),
        (("--evaluation.every_n_episodes", "-1"), "every_n_episodes must be at least 0, got -1"),
        (("--evaluation.every", "1"), "(did you mean --evaluation?)"),
        (("--checkpoint.every_seconds", "-1"), "every_seconds must be at least 0, got -1"),
        (("--seed_everything", "abc"), "seed_everything"),
        (("--seed_everything", "false"), "seed_everything must be between 0 and 4294967295, got False"),
        (("--seed_everything", "-1"), "seed_everything must be between 0 and 4294967295, got -1"),
        (("--seed_everything", "99999999999"), "seed_everything must be between 0 and 4294967295"),
        (("--data.scenario", ""), "unknown scenario ''"),
        (("--data.env_steps", "10.5"), "env_steps must be a whole number, got 10.5"),
        (
            ("--config", "configs/amal.yaml", "--trainer.callbacks+=callbacks.Evolution"),
            "trainer.callbacks: Found more than one stateful callback of type `Evolution`",
        ),
        (("--config", "configs"), "configs"),
        (("--trainer.max_steps", "3"), "trainer.max_steps must stay -1, got 3: data.env_steps ends training"),
        (("--trainer.max_epochs", "0"), "trainer.max_epochs must stay 1, got 0"),
        (("--trainer.fast_dev_run", "true"), "trainer.fast_dev_run must stay False, got True"),
        (("--trainer.precision", "7"), "precision"),
        (("--trainer.precision", "16-mixed"), "trainer.precision must be 32-true or bf16-mixed, got 16-mixed"),
        (("--trainer.strategy", "ddpp"), "strategy='ddpp'"),
        (("--trainer.devices", "0"), "devices='0'"),
        (("--trainer.devices", "nine"), "devices"),
        (("--trainer.accelerator", "gpu"), "gpu"),
        (("--trainer.accelerator", "abacus"), "abacus"),
        (("--trainer.max_epoch", "2"), "(did you mean --trainer.max_epochs?)"),
        (("--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt"),
        (("--ckpt_path", "README.md"), "README.md: damaged or no checkpoint"),
        (("--weights_only", "false"), "weights_only: false is refused"),
        (("--model", "their.Algorithm"), "add --allow_code their"),
        (("--allow_code", "their code"), "--allow_code takes a package, a module or a file"),
        (("--config", "configs/nope.yaml"), "nope.yaml"),
        (("--config", "README.md"), "README.md"),
        (("--model", "MAPO"), "MAPO"),
        (("--model", "torch.nn.Linear"), "not correspond to a subclass of Algorithm"),
        (("--model.lrr", "1"), "'lrr' is not accepted (did you mean lr?)"),
        (("--model.lr", "fast"), "lr"),
        (("--model.lr", "nan"), "Got value: nan"),
        (("--model.lr", "1e400"), "lr must be a finite number, got inf"),
        (("--model.lr", "null"), "\"lr\": Expected a <class 'float'>. Got value: None"),
        (("--model.gamma", "1.5"), "gamma must be in [0, 1], got 1.5"),
        (("--model.gae_lambda", "-0.5"), "gae_lambda must be in [0, 1], got -0.5"),
        (("--model.clip_param", "0"), "clip_param must be in (0, 1), got 0"),
        (("--model.entropy_coef", "-1"), "entropy_coef must be at least 0.0, got -1.0"),
        (("--model.max_grad_norm", "0"), "max_grad_norm must be greater than 0, got 0"),
        (("--model.value_loss", "l1"), "l1"),
        (("--model.n_epochs", "0"), "n_epochs must be at least 1, got 0"),
        (("--model.n_minibatch", "0"), "n_minibatch must be at least 1, got 0"),
        (("--model.n_minibatch", "64"), "n_minibatch must be at most episodes_per_update (32), got 64"),
        (("--model.n_step_returns", "0"), "n_step_returns must be at least 1, got 0"),
        (("--model.target_critic_tau", "2"), "target_critic_tau must be in (0, 1], got 2"),
        (("--model.critic", "amal.networks.FilmCritic"), "FilmCritic"),
        (("--model.critic", "MAPPOCritc"), "MAPPOCritc (did you mean MAPPOCritic?)"),
        (("--model.critic.init_args.hiden_sizes", "[8]"), "(did you mean hidden_sizes?)"),
        (("--model.critic.init_args.hidden_sizes", "[]"), "hidden_sizes must be one or more sizes"),
        (("--model.policy", "amal.networks.GRUPolicy", "--model.policy.init_args.hidden_size", "0"), "hidden_size"),
        (("--trainer.callbacks", "callbacks.Evolution"), "callbacks.Evolution is for AMAL"),
        (("--trainer.callbacks", "callbacks.Pictuers"), "'Pictuers' (did you mean Pictures?)"),
        (("--trainer.gradient_clip_val", "0.5"), "must stay null, got 0.5: model.max_grad_norm clips gradients"),
        (("--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"), "`Trainer` that has no logger"),
        (("--trainer", "3"), "trainer"),
        (("--ckpt_path", "configs"), "configs: is a folder"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", *args)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model.lamda_info", "0"), "(did you mean lambda_info?)"),
        (("--model.lambda_info", "-1"), "lambda_info must be at least 0.0, got -1.0"),
        (("--model.aux_ratio", "2"), "aux_ratio must be in [0, 1], got 2"),
        (("--model.num_auxiliary_agents", "30"), "num_auxiliary_agents must be at most the elites"),
        (("--model.policy", "amal.networks.GRUPolicy"), "policy must be feed-forward for AMAL"),
        (("--model.information", "amal.ops.information.EnsembleInformationGain"), "ensemble_size must be at least 2"),
        (("--model.replay_capacity", "0"), "replay_capacity must be at least 1, got 0"),
        (("--model.cem_elite_fraction", "0"), "elite_fraction must be in (0, 1], got 0"),
        (("--model.distance_band", "[1, 0]"), "distance_band must be two divergences"),
        (("--model.information_bonus", "huge"), "huge"),
        (("--trainer.callbacks", "callbacks.Pictures"), "AMAL's auxiliary agents need callbacks.Evolution"),
        (
            ("--config", "configs/diagnosis.yaml", "--trainer.devices", "2"),
            "callbacks.Diagnosis is for training in one process, not in 2",
        ),
    ],
)
def test_bad_input_of_amal_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", *args, config="configs/amal.yaml")
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


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
