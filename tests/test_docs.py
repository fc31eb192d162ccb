"""What the documentation tells people to type, and what it says that there is."""

from __future__ import annotations

import ast
import inspect
import json
import os
import pkgutil
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
import yaml

from amal.battle.scenario import load_scenario, scenario_names
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = ("--data.scenario=3m", "--data.episodes=8", "--data.episodes_per_update=4", "--data.num_envs=4")

# a training that lasts until it is asked to stop, and then saves; a second one finishes
TRAINING = """
import os, pathlib, signal, sys, time
def tell(): print(*sys.argv[1:], *(["in SLURM"] if "SLURM_JOB_ID" in os.environ else []), file=open("calls", "a"))
if pathlib.Path("broken").exists(): tell(); sys.exit(2)
if sys.argv[1] == "report" or pathlib.Path("saved").exists(): tell(); sys.exit()
def save(number, frame):
    folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1], "checkpoints")
    folder.mkdir(parents=True)
    (folder / "last.ckpt").touch()
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
tell()
time.sleep(60)
"""
SLURM = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": '[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" >> calls',
    "ray": 'echo "ray $*${SLURM_JOB_ID:+ in SLURM}" >> calls',
}
JOB = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "job", "SLURM_CPUS_PER_TASK": "2", "SLURM_ARRAY_JOB_ID": "16",
       "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}  # fmt: skip


def snippets(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def section(page: str, title: str) -> str:
    """A section's text, without the sections of the same level."""
    return re.split(r"^## ", (ROOT / "docs" / page).read_text().split(f"## {title}\n")[1], flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    """The names in the first column of its tables, each `like_this`."""
    return [name for cell in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.*?)`", cell)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {}
    save_yaml(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for snippet in snippets(page, "python"):
        exec(compile(snippet, page.name, "exec"), names)


def test_a_scenario_typed_in_from_the_docs_trains_and_is_replayed(
    cli: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "extending.md"
    save_yaml(page, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"two_gates.yaml", "raid.yaml"}
    for name in ("two_gates", "raid"):
        file, run = tmp_path / f"{name}.yaml", tmp_path / name
        cli("scenarios", file)
        assert name in capsys.readouterr().out
        budget = ("--data.env_steps", "300", "--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "0")
        cli("fit", "--config", "configs/mappo_tuned.yaml", "--data.scenario", file, *budget, "--out", run)
        cli("replay", "--ckpt_path", run / "checkpoints" / "last.ckpt", "--out", tmp_path / f"{name}.html")
        assert name in (tmp_path / f"{name}.html").read_text()


def save_yaml(page: Path, folder: Path) -> None:
    """Saves the blocks that begin with the name of a file."""
    for name, block in re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", page.read_text(), re.DOTALL):
        (folder / name).write_text(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    configs = re.findall(r"configs/[\w/]+\.yaml", text)
    # the site has no page for a folder
    missing = [name for name in links if not (page.parent / name).is_file()]
    missing += [name for name in configs if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("command", ["fit", "scenarios"])
def test_without_the_packages_a_command_says_how_to_get_at_them(command: str) -> None:
    """As after ``make train``, before anybody has activated .venv."""
    bare = [sys.executable, "-S", "cli.py", command]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .* has no \w+; make train .*: source \.venv/bin/activate\n", done.stderr)
    for place in ("README.md", "Makefile"):
        assert "source .venv/bin/activate" in (ROOT / place).read_text()


def test_the_readme_names_every_page() -> None:
    listed = re.findall(r"^- \[docs/([\w.]+)\]\(docs/[\w.]+\): ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("config", "sections"),
    [
        ("configs/mappo.yaml", ["metrics.csv of every run"]),
        ("configs/amal_paper.yaml", ["metrics.csv of every run", "metrics.csv of AMAL's first design"]),
        (
            "configs/amal.yaml",
            ["metrics.csv of every run", "metrics.csv of AMAL"],
        ),
        ("configs/qmix.yaml", ["metrics.csv of VDN and QMIX"]),
    ],
)
def test_the_metrics_page_names_what_a_run_writes(
    cli: Callable[..., None], tmp_path: Path, config: str, sections: list[str]
) -> None:
    more = {"qmix": "--model.batch_size=4", "amal": "--model.imagination.warm_up=0"}
    own = more.get(Path(config).stem)
    options = ["--evaluation.every_n_episodes=8", *([own] if own else [])]
    cli("fit", "--config", config, *TINY, *options, "--out", tmp_path / "run")
    explained = [name for title in sections for name in first_cells(section("metrics.md", title))]
    assert sorted(explained) == sorted(pd.read_csv(tmp_path / "run" / "metrics.csv"))
    evaluated = first_cells(section("metrics.md", "evaluations.csv"))
    assert evaluated == list(pd.read_csv(tmp_path / "run" / "evaluations.csv"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    keys = [f"{name}.{key}" for name in ("evaluation", "totals") for key in record.pop(name)] + list(record)
    assert sorted(first_cells(section("metrics.md", "run.json"))) == sorted(keys)


@pytest.mark.parametrize(("page", "at_least"), [("symbols.md", 40), ("algorithms.md", 20)])
def test_symbols_stand_for_what_is_there(page: str, at_least: int) -> None:
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"`((?:amal|callbacks)\.[\w.]+)(?:\((\w+)=(.*?)\))?`", text)
    assert len(named) > at_least
    for name, argument, default in named:
        there = pkgutil.resolve_name(name)
        if argument:
            assert inspect.signature(there).parameters[argument].default == ast.literal_eval(default), (name, argument)


def test_the_layout_on_the_page_is_the_one_of_the_code(
    cli: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli("scenarios", "2s3z")
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    shown = section("observations.md", "2s3z").split("```")[1].strip().splitlines()
    assert shown == printed


@pytest.mark.parametrize("view", ["observation", "state"])
def test_every_feature_is_explained(view: str) -> None:
    explained = first_cells(section("observations.md", f"Features of the {view}"))
    there = set()
    shipped = [load_scenario(name) for name in scenario_names()]
    for scenario in [*shipped, replace(shipped[0], view_angle=90.0)]:
        for feature in scenario.obs_features() if view == "observation" else scenario.state_features():
            own = feature.rpartition(".")[2]
            there.add(re.sub(r"^is_.*", "is_TYPE", re.sub(r"^last_action\d+", "last_actionA", own)))
    assert sorted(explained) == sorted(there)


def test_the_layout_of_healers_and_of_unknown_scenarios(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cli("scenarios", "MMM")
    assert "a medivac instead: heal ally0 … ally9" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli("scenarios", "MMN")
    assert stop.value.code == 2 and "did you mean MMM" in capsys.readouterr().err


def test_the_algorithm_of_the_recipe_trains_and_is_validated(
    cli: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "extending.md"
    (code,) = (snippet for snippet in snippets(page, "python") if "class Reinforce" in snippet)
    (config,) = (snippet for snippet in snippets(page, "yaml") if "my_algorithm" in snippet)
    (tmp_path / "my_algorithm.py").write_text(code)
    (tmp_path / "my_algorithm.yaml").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    run, ours = tmp_path / "run", ("--allow_code", "my_algorithm")
    cli("fit", "--config", tmp_path / "my_algorithm.yaml", *TINY, "--out", run, *ours)
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"
    assert pd.read_csv(run / "metrics.csv")["train/policy_loss"].notna().all()
    cli("validate", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "best.ckpt", *ours)
    assert "eval/win_rate" in capsys.readouterr().out


def test_the_callback_of_the_recipe_announces(
    cli: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = snippets(ROOT / "docs" / "callbacks.md", "python")
    (tmp_path / "announce.py").write_text(code.replace("0.5", "-1.0"))
    monkeypatch.syspath_prepend(tmp_path)
    added = ("--trainer.callbacks+", "announce.Announce", "--allow_code", "announce", "--out", tmp_path / "run")
    cli("fit", "--config", "configs/mappo.yaml", *TINY, *added)
    assert "of battles won after" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_snippets_are_shell(page: Path) -> None:
    for snippet in snippets(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=snippet, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def submit(tmp_path: Path) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts a script of cluster.md as SLURM would, with stand-ins for SLURM, Ray and the training."""
    scripts = {
        re.findall(r"^# (\w+)\.sbatch", s, re.MULTILINE)[0]: s for s in snippets(ROOT / "docs/cluster.md", "bash")
    }
    (tmp_path / "bin").mkdir()
    for name, body in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "amal").write_text(f"#!{sys.executable}\n{TRAINING}")
    (tmp_path / "bin" / "amal").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    environment = os.environ | JOB | {"SLURM_SUBMIT_DIR": str(tmp_path), "RAY_PAUSE": "0.2", "PATH": path}

    def start(name: str) -> subprocess.Popen[bytes]:
        (tmp_path / "calls").write_text("")
        return subprocess.Popen(["bash", "-c", scripts[name]], env=environment, start_new_session=True)

    return start


@pytest.mark.parametrize(("name", "job"), [("run", "17"), ("study", "16_1"), ("ray", "17")])
def test_a_job_that_slurm_warns_saves_requeues_itself_and_goes_on(
    submit: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, name: str, job: str
) -> None:
    def calls() -> list[str]:
        return [line for line in (tmp_path / "calls").read_text().splitlines() if not line.startswith("ray ")]

    first = submit(name)
    deadline = time.monotonic() + 20
    while not calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 143
    begun, requeued = calls()
    assert requeued == f"scontrol requeue {job}"
    if name == "ray":
        servers = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("ray ")]
        assert len(servers) == 2 and not any("in SLURM" in line for line in [*servers, begun])

    assert submit(name).wait(timeout=20) == 0
    again, *rest = calls()
    if name == "run":
        assert "--ckpt_path runs/job/checkpoints/last.ckpt" in again and not rest
    else:
        assert again == begun and rest[0].startswith("report runs/job")


@pytest.mark.parametrize("name", ["run", "study", "ray"])
def test_a_job_that_fails_is_not_requeued(
    submit: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "broken").touch()
    assert submit(name).wait(timeout=20) == 2
    assert "scontrol" not in (tmp_path / "calls").read_text()


def test_the_page_tells_which_protocols_have_random_delay() -> None:
    page = " ".join((ROOT / "docs" / "simulator.md").read_text().split())
    told = re.findall(r"in `configs/study`, (.*?) do; (.*?) compares with and without\. (.*?) were run before", page)[0]
    kinds: dict[bool | None, set[str]] = {True: set(), None: set(), False: set()}
    for path in (ROOT / "configs" / "study").glob("*.yaml"):
        algorithms = yaml.safe_load(path.read_text())["algorithms"]
        have = ["configs/random_delay.yaml" in algorithm for algorithm in algorithms]
        kinds[True if all(have) else None if any(have) else False].add(path.stem)
    assert [{*re.findall(r"`(\w+)`", names)} for names in told] == list(kinds.values())
