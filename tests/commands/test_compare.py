"""The compare command: the grid, what it refuses, and that nothing is lost or done twice however it ends."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from amal.commands.compare import grid_of, main, read_options
from amal.study.analysis.comparison import read_comparison
from amal.study.grid.launchers import CellInUse, launch
from amal.study.grid.runs import Cell, Grid, StudyError, last_row, write_record
from tests.conftest import ROOT

BRIEF = ("data.episodes_per_update=4", "data.num_envs=4", "evaluation.every_n_episodes=8", "checkpoint.every_seconds=0")
OF_STUDIES = ("--checkpoint.keep_learning_state=false", "--trainer.callbacks+=callbacks.FinalTest")
GRID = Grid({"mappo": [Path("configs/mappo.yaml")], "ippo": [Path("configs/ippo.yaml")]}, ["3m", "8m"], [0, 1], 1000)

RECORD = {"algorithm": "MAPPO", "outcome": "finished", "totals": {}}
EVALUATIONS = """\
env_steps,episodes,wall_seconds,win_rate,return_mean,return_std,episode_length,dead_allies,dead_enemies
600,30,1.0,0.5,10.0,1.0,20.0,1.0,2.0
"""
STAND_IN = f"""
import json, os, pathlib, signal, sys
seed = next(word for word in sys.argv if word.startswith("--seed"))[-1]
if seed in "12" and not int((pathlib.Path(__file__).parent / "patience").read_text()):
    print("RuntimeError: no")
    sys.exit(3) if seed == "1" else os.kill(os.getpid(), signal.SIGKILL)
folder = pathlib.Path(sys.argv[-1])
folder.joinpath("run.json").write_text(json.dumps({RECORD} | {{"scenario": "3m", "seed": int(seed)}}))
folder.joinpath("evaluations.csv").write_text({EVALUATIONS!r})
print(os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def arguments(out: Path, *more: str, algorithms: tuple[str, ...] = ("mappo",), seeds: str = "2") -> list[str]:
    grid = ["--algorithms", *algorithms, "--scenarios", "3m", "--seeds", seeds, "--env_steps", "600"]
    return [*grid, "--overrides", *BRIEF, "--out", str(out), *more]


def start(out: Path, *more: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "cli.py", "compare", *arguments(out, *more, **options)]  # type: ignore[arg-type]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_of(out: Path) -> list[str]:
    lines = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if f"--out {out}/" in line]


def fake(cell: Cell, outcome: str | None = None, checkpoint: bool = False) -> None:
    cell.folder.mkdir(parents=True)
    if outcome is not None:
        record = RECORD | {"scenario": cell.scenario, "seed": cell.seed, "outcome": outcome}
        (cell.folder / "run.json").write_text(json.dumps(record))
        (cell.folder / "evaluations.csv").write_text(EVALUATIONS)
    if checkpoint:
        cell.checkpoint.parent.mkdir()
        cell.checkpoint.touch()


def refusal(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1
    return message


def test_seeds_of_all_algorithms_advance_together(tmp_path: Path) -> None:
    names = [str(cell) for cell in GRID.cells(tmp_path)]
    assert names[:5] == ["mappo 3m seed_0", "ippo 3m seed_0", "mappo 8m seed_0", "ippo 8m seed_0", "mappo 3m seed_1"]
    assert len(set(names)) == 8


def test_a_cell_begins_continues_or_is_finished_as_its_folder_says(tmp_path: Path) -> None:
    begun, stopped, crashed, done = GRID.cells(tmp_path)[:4]
    fake(begun, "running")
    fake(stopped, "running", checkpoint=True)
    fake(crashed, "failed: RuntimeError: finished", checkpoint=True)
    fake(done, "finished", checkpoint=True)
    assert [cell.is_finished() for cell in (begun, stopped, crashed, done)] == [False, False, False, True]
    assert begun.next_arguments()[:3] == [f"--config={ROOT / 'configs/mappo.yaml'}", *OF_STUDIES]
    for cell in (stopped, crashed):
        config, checkpoint = cell.folder / "config.yaml", cell.folder / "checkpoints" / "last.ckpt"
        assert cell.next_arguments()[:4] == ["--config", str(config), "--ckpt_path", str(checkpoint)]


def test_allowed_code_is_passed_on_to_begin_and_to_continue(tmp_path: Path) -> None:
    grid = Grid(GRID.algorithms, ["8m"], [3], 500, allowed_code=["their", "critic.py"])
    cell = grid.cells(tmp_path)[0]
    assert cell.next_arguments()[-2:] == ["--allow_code=their", "--allow_code=critic.py"]
    fake(cell, "running", checkpoint=True)
    assert cell.next_arguments()[-2:] == ["--allow_code=their", "--allow_code=critic.py"]
    assert "their" not in str(grid.record())


def test_overrides_come_after_the_config_and_before_what_the_grid_sets(tmp_path: Path) -> None:
    grid = Grid(GRID.algorithms, ["8m"], [3], 500, ["data.num_envs=32"])
    words = [word for word in grid.cells(tmp_path)[0].next_arguments() if not word.startswith("--config")]
    assert words[:6] == [
        *OF_STUDIES,
        "--data.num_envs=32",
        "--data.scenario=8m",
        "--data.env_steps=500",
        "--seed_everything=3",
    ]


def test_only_a_cell_without_a_checkpoint_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setattr(sys, "platform", "other")
    fresh, stopped = GRID.cells(tmp_path / "study")[:2]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    for cell in (fresh, stopped):
        fake(cell, "running", checkpoint=cell is stopped)
        (cell.folder / "plots").mkdir()
        (cell.folder / "elsewhere").symlink_to(outside)
        launch(cell, threads=1).wait()
    assert list(fresh.folder.iterdir()) == [] and (outside / "precious").exists()
    names = {"run.json", "evaluations.csv", "checkpoints", "plots", "elsewhere"}
    assert {path.name for path in stopped.folder.iterdir()} == names


def test_a_cell_is_never_worked_on_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amal.study.grid.launchers.LOCK_SECONDS", 0.2)
    cell = GRID.cells(tmp_path)[0]
    first = launch(cell, threads=1)
    try:
        with pytest.raises(CellInUse):
            launch(cell, threads=1)
    finally:
        first.kill()
        first.wait()
    second = launch(cell, threads=1)
    second.kill()
    second.wait()


def test_a_study_grows_but_its_settings_stay(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {}\n")
    study = tmp_path / "study"
    begun = Grid({"mine": [config]}, ["3m"], [0, 1], 1000)
    write_record(study, begun.joined(study))
    grown = Grid({"mine": [config], **GRID.algorithms}, ["3m", "8m"], [0, 1, 2], 1000)
    write_record(study, grown.joined(study))
    record = yaml.safe_load((study / "study.yaml").read_text())
    assert list(record["algorithms"]) == ["mine", "mappo", "ippo"]
    assert (record["scenarios"], record["seeds"]) == (["3m", "8m"], [0, 1, 2])
    assert record["history"][1]["added"] == {"algorithms": ["mappo", "ippo"], "scenarios": ["8m"], "seeds": [2]}
    assert begun.joined(study) == grown.joined(study) == record
    fake(begun.cells(study)[0], "interrupted")
    for other, words in (
        (Grid({"mine": [config]}, ["3m"], [0], 2000), "--env_steps 1000, not 2000"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, ["model.lr=1"]), "--overrides none, not model.lr=1"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, tuned_on=["8m"]), "--tuned_on none, not 8m"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, baseline="mine"), "--baseline none, not mine"),
        (Grid({"mine": [config, config]}, ["3m"], [0], 1000), "choose another label"),
    ):
        with pytest.raises(StudyError, match=words):
            other.joined(study)
    config.write_text("model: {lr: 1}\n")
    with pytest.raises(StudyError, match="mine.yaml as 'mine', which has changed"):
        begun.joined(study)


def test_runs_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    fake(GRID.cells(tmp_path)[5], "finished")
    with pytest.raises(StudyError, match="tells how it was made"):
        GRID.joined(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--scenarios", "3m", "2s3x"), "unknown scenario '2s3x' (did you mean 2s3z?)"),
        (("--scenarios", "3m", "3m"), "3m is named twice"),
        (("--algorithms", "mapo"), "no file configs/mapo.yaml (did you mean configs/mappo.yaml?)"),
        (("--algorithms", "mappo:configs/mappo.yaml,nope.yaml"), "no file nope.yaml"),
        (("--algorithms", "mappo", "mappo:configs/ippo.yaml"), "'mappo' is named twice"),
        (("--algorithms", "../mappo"), "'../mappo' cannot name an algorithm"),
        (("--algorithms", "logs:configs/mappo.yaml"), "'logs' cannot name an algorithm"),
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--seeds", "1", "-1"), "--seeds must be between 0 and 4294967295, got -1"),
        (("--seeds", "1", "1"), "1 is named twice"),
        (("--seeds", "x"), "--seeds"),
        (("--seeds", "100000000"), "--seeds must be at most 100,000, got 100000000"),
        (("--seeds", "60000", "--scenarios", "3m", "8m"), "120,000 runs are more than a study can have"),
        (("--out", ""), "argument --out: must not be empty"),
        (("--out", " "), "argument --out: must not be empty"),
        (("--out", "configs"), "--out configs: holds ablations and no study.yaml"),
        (("--out", "n" * 300), "File name too long"),
        (("--overrides", "evaluation.every_n_episodes=0"), "evaluation.every_n_episodes must be at least 1, got 0"),
        (("--overrides", "evaluation.every_n_episodes=-3"), "must be at least 1, got -3: a report needs evaluations"),
        (("--overrides", "evaluation.every_n_episodes=null"), "must be at least 1, got null"),
        (("--overrides", "evaluation={every_n_episodes: 0}"), "expected one argument of evaluation"),
        (("--env_steps", "0"), "--env_steps must be at least 1, got 0"),
        (("--parallel", "0"), "--parallel must be at least 1, got 0"),
        (("--overrides", "model.lr"), "expected KEY=VALUE, got 'model.lr'"),
        (("--overrides", "data.env_steps=5"), "data.env_steps is set by the study itself"),
        (("--baseline", "mapo"), "--baseline: 'mapo' is not among --algorithms (did you mean mappo?)"),
        (("--tuned_on", "2s3x"), "unknown scenario '2s3x' (did you mean 2s3z?)"),
        (("--protocol", "configs/study/critiks.yaml"), "did you mean configs/study/critics.yaml?"),
        (("--protocol", "configs/study/critics.yaml"), "--algorithms is set by --protocol configs/study/critics.yaml"),
        (("--protocol", "configs/mappo.yaml"), "unknown setting 'model'"),
        (("--out", "README.md"), "--out README.md cannot be written to: File exists"),
        (("--launcher", "slurm"), "slurm"),
        (("--launcher", "ray"), "not installed: pip install ray"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    assert words in refusal(capsys, arguments(tmp_path / "study", *change))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("content", ["evaluation: {every_n_episodes: 0}", "evaluation: {every_n_episodes: null}"])
def test_an_algorithm_that_is_never_evaluated_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    silent = tmp_path / "silent.yaml"
    silent.write_text(content + "\n")
    algorithms = (f"silent:configs/mappo.yaml,{silent}",)
    grid = [word for word in arguments(tmp_path / "study", algorithms=algorithms) if "every_n_episodes" not in word]
    assert f"{silent} sets evaluation.every_n_episodes to" in refusal(capsys, grid)
    assert not (tmp_path / "study").exists()
    assert grid_of(read_options([*grid, "--overrides", "evaluation.every_n_episodes=8"])).overrides, "it says otherwise"


def test_finished_runs_whose_files_are_broken_are_set_aside_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cli.py").write_text(STAND_IN)
    (tmp_path / "patience").write_text("1")
    monkeypatch.setattr("amal.study.grid.launchers._ROOT", tmp_path)
    out = tmp_path / "study"

    def compare() -> str:
        with pytest.raises(SystemExit) as stop:
            main(arguments(out, "--parallel", "4", seeds="5"))
        assert stop.value.code == 0
        return capfd.readouterr().err

    compare()
    cells = out / "mappo" / "3m"
    (cells / "seed_0" / "run.json").write_bytes(b"\0" * 300)  # as after a power cut
    (cells / "seed_1" / "evaluations.csv").unlink()
    (cells / "seed_2" / "evaluations.csv").write_bytes(b"\0" * 300)
    (cells / "seed_3" / "metrics.csv").write_text("env_steps,train/lr\n1,much\n")
    told = compare()
    for seed, file in enumerate(("run.json", "evaluations.csv", "evaluations.csv", "metrics.csv")):
        assert f"note: mappo 3m seed_{seed} is run again, its folder is set aside: {cells}/seed_{seed}/{file}: " in told
        assert json.loads((cells / f"seed_{seed}" / "run.json").read_text())["outcome"] == "finished"
        assert (cells / f"broken_seed_{seed}").is_dir()
    assert (cells / "broken_seed_0" / "run.json").read_bytes() == b"\0" * 300, "nothing is lost"
    assert [path.read_text().count("fit") for path in sorted(out.glob("logs/*.log"))] == [2, 2, 2, 2, 1]
    assert compare() == "" and not (cells / "broken_seed_0-2").exists()
    assert {run.seed for run in read_comparison(out).runs} == {0, 1, 2, 3, 4}


def test_a_protocol_sets_what_the_options_would(tmp_path: Path) -> None:
    protocol = tmp_path / "protocol.yaml"
    settings = {
        "algorithms": ["mappo", "tuned:configs/mappo_tuned.yaml"],
        "scenarios": ["3m", "8m"],
        "seeds": 3,
        "env_steps": 1000,
        "overrides": [],
        "baseline": "tuned",
        "tuned_on": ["3m"],
    }
    protocol.write_text(yaml.safe_dump(settings))
    grid = grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)]))
    tuned = {"mappo": [Path("configs/mappo.yaml")], "tuned": [Path("configs/mappo_tuned.yaml")]}
    assert grid == Grid(tuned, ["3m", "8m"], [0, 1, 2], 1000, [], [], "tuned", ["3m"])
    record = grid.joined(tmp_path / "new")
    assert record["tuned_on"] == ["3m"]
    # stated before the first run: tests of the final win rate and of the steps, of mappo on 8m
    assert record["family"]["tests"] == 2 and record["family"]["algorithms"] == ["mappo"]
    assert record["family"]["scenarios"] == ["8m"] and record["family"]["correction"] == "Holm"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("overrides", ["allow_code=/x/evil.py"], "allow_code is set by the study itself"),
        ("overrides", ["allow_code+=/x/evil.py"], "allow_code+ is set by the study itself"),
        ("overrides", ["--allow_code", "/x/evil.py"], "overrides: a value must not begin with a dash"),
        ("overrides", ["model.lr=1", "--allow_code=/x/evil.py"], "overrides: a value must not begin with a dash"),
        ("overrides", ["config=/x/evil.yaml"], "config is set by the study itself"),
        ("overrides", ["data={scenario: 8m}"], "data is set by the study itself"),
        ("overrides", ["trainer.callbacks=null"], "trainer.callbacks is set by the study itself"),
        ("scenarios", ["3m", "--allow_code", "/x/evil.py"], "scenarios: a value must not begin with a dash"),
        ("algorithms", ["mappo", "--out=/x"], "algorithms: a value must not begin with a dash"),
        ("tuned_on", ["-h"], "tuned_on: a value must not begin with a dash"),
        ("seeds", -1, "seeds: a value must not begin with a dash"),
        ("baseline", "--launcher=ray", "baseline: a value must not begin with a dash"),
        ("allow_code", "/x/evil.py", "unknown setting 'allow_code'"),
        ("launcher", "ray", "unknown setting 'launcher'"),
    ],
)
def test_a_protocol_gives_values_and_no_options(tmp_path: Path, name: str, value: object, words: str) -> None:
    protocol = tmp_path / "protocol.yaml"
    settings: dict[str, object] = {"algorithms": ["mappo"], "scenarios": ["3m"], "env_steps": 100}
    protocol.write_text(yaml.safe_dump(settings | {name: value}))
    with pytest.raises(StudyError, match=re.escape(words)):
        grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)]))


def test_a_protocol_says_nothing_twice(tmp_path: Path) -> None:
    protocol = tmp_path / "protocol.yaml"
    protocol.write_text("algorithms: [mappo]\nscenarios: [3m]\nscenarios: [8m]\nenv_steps: 1e6\n")
    with pytest.raises(StudyError, match="line 3: key 'scenarios' is given twice, first in line 2"):
        read_options(["--out", "runs/x", "--protocol", str(protocol)])
    protocol.write_text("algorithms: [mappo]\nscenarios: [3m]\nenv_steps: 1e6\n")
    assert grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)])).env_steps == 1_000_000


def test_the_shipped_protocols_describe_a_grid() -> None:
    for protocol in sorted(Path("configs/study").glob("*.yaml")):
        grid = grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)]))
        assert (grid.baseline or "mappo") in grid.algorithms and set(grid.tuned_on) != set(grid.scenarios)


def test_a_study_of_which_nothing_came_may_begin_anew_with_other_settings(tmp_path: Path) -> None:
    write_record(tmp_path, replace(GRID, overrides=["model.lrr=1"]).joined(tmp_path))
    first = GRID.cells(tmp_path)[0].folder
    first.mkdir(parents=True)
    assert GRID.joined(tmp_path)["overrides"] == []
    (first / "config.yaml").touch()
    with pytest.raises(StudyError, match="was begun with --overrides model.lrr=1, not none"):
        GRID.joined(tmp_path)


def test_a_second_compare_on_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is in use: another process" in refusal(capsys, arguments(tmp_path))
    assert not (tmp_path / "study.yaml").exists()


def test_the_last_row_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert last_row(path) == {}
    path.write_text("env_steps,x\r\n")
    assert last_row(path) == {}
    path.write_text("env_steps,x\r\n1,2\r\n3,4\r\n5,")
    assert last_row(path) == {"env_steps": 3.0, "x": 4.0}


def test_only_the_latest_session_of_a_log_tells_the_error(tmp_path: Path) -> None:
    cell = GRID.cells(tmp_path)[0]
    cell.log.parent.mkdir()
    cell.log.write_text("=== first\nerror: old\n=== second\nTraceback …\nValueError: new\nbye\n")
    assert cell.last_error() == "ValueError: new"
    cell.log.write_text("=== first\nerror: old\n=== second\n")
    assert cell.last_error() == ""


def test_help_answers_without_torch() -> None:
    code = "import sys\nfrom cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'lightning', 'ray'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--algorithms" in done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runs of a killed compare go on to their end")
def test_a_killed_study_leaves_no_process_and_goes_on_as_if_nothing_had_happened(
    cli: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "study"
    killed = start(out)
    wait_until(lambda: any(out.glob("mappo/3m/*/checkpoints/last.ckpt")))
    killed.kill()
    killed.communicate()
    wait_until(lambda: not processes_of(out), seconds=5)
    outcomes = [json.loads(path.read_text())["outcome"] for path in out.glob("mappo/3m/*/run.json")]
    assert "running" in outcomes
    stdout, stderr = (again := start(out)).communicate(timeout=120)
    assert again.returncode == 0 and "2 of 2 finished" in stdout, stderr
    assert any("--ckpt_path" in path.read_text() for path in out.glob("logs/*.log"))
    for seed in (0, 1):
        overrides = [f"--{override}" for override in BRIEF]
        cli("fit", "--config=configs/mappo.yaml", *overrides, "--data.scenario=3m", "--data.env_steps=600",
            f"--seed_everything={seed}", "--out", tmp_path / f"whole{seed}")  # fmt: skip
        files = [folder / "evaluations.csv" for folder in (tmp_path / f"whole{seed}", out / f"mappo/3m/seed_{seed}")]
        expected, got = (pd.read_csv(file).drop(columns="wall_seconds") for file in files)
        pd.testing.assert_frame_equal(expected, got)
        whole, last = (torch.load(file.parent / "checkpoints" / "last.ckpt", weights_only=True) for file in files)
        assert all(torch.equal(whole["state_dict"][name], tensor) for name, tensor in last["state_dict"].items())
        assert "optimizer_states" in whole and "optimizer_states" not in last


def test_a_failing_run_is_reported_with_its_log(tmp_path: Path) -> None:
    process = start(tmp_path / "study", "--overrides", "model.lr=-1", seeds="1")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    log = tmp_path / "study/logs/mappo-3m-seed_0.log"
    assert f"  mappo 3m seed_0: exit code 2 · {log} · error: lr must be greater than 0, got -1.0\n" in stderr


def test_the_others_go_on_after_a_failure_which_is_tried_again_by_the_next_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cli.py").write_text(STAND_IN)
    monkeypatch.setattr("amal.study.grid.launchers._ROOT", tmp_path)
    out = tmp_path / "study"
    for patience, n_failed in ((0, 2), (1, 0), (1, 0)):
        (tmp_path / "patience").write_text(str(patience))
        with pytest.raises(SystemExit) as stop:
            main(arguments(out, "--parallel", "2", seeds="5"))
        captured = capfd.readouterr()
        assert stop.value.code == (1 if n_failed else 0)
        assert captured.err.count("\n  mappo 3m seed_") == n_failed
    assert [path.read_text().count("=== ") for path in sorted(out.glob("logs/*.log"))] == [1, 2, 2, 1, 1]
    assert "5 of 5 finished" in captured.out
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (out / "logs/mappo-3m-seed_0.log").read_text().endswith(f"\n{threads}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_ends_its_runs_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    wait_until(lambda: len(processes_of(tmp_path)) == 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 128 + number and not processes_of(tmp_path)
    assert stderr == "stopped with 2 of 2 runs left; resume with the same command\n"


@pytest.mark.slow
def test_ray_continues_the_cell_of_a_lost_node_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        out = tmp_path / "study"
        os.environ["RAY_ADDRESS"] = cluster.address
        process = start(out, "--launcher", "ray", "--env_steps", "20000")
        checkpoints = [out / f"mappo/3m/seed_{seed}/checkpoints/last.ckpt" for seed in (0, 1)]
        wait_until(lambda: all(path.exists() for path in checkpoints), seconds=180)
        cluster.remove_node(lost, allow_graceful=False)
        stdout, stderr = process.communicate(timeout=400)
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        cluster.shutdown()
    assert process.returncode == 0 and "2 of 2 finished" in stdout, stderr
    sessions = sorted(path.read_text().count("=== ") for path in out.glob("logs/*.log"))
    assert sessions == [1, 2]
    for path in out.glob("mappo/3m/*/evaluations.csv"):
        rows = pd.read_csv(path)
        assert rows["env_steps"].is_monotonic_increasing and rows["env_steps"].iloc[-1] >= 20000
