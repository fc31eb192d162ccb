"""The options of compare, and what it refuses."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from amal.commands.compare import grid_of, main, read_options
from amal.study.grid.runs import Grid
from amal.study.records import StudyError
from tests.conftest import ROOT
from tests.study.cells import arguments


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def refusal(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1
    return message


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
        (("--budgets", "3n=5"), "--budgets: '3n' is not among --scenarios; there are 3m"),
        (("--budgets", "3m=many"), "--budgets 3m: expected a whole number, got 'many'"),
        (("--budgets", "3m=0"), "--budgets 3m must be at least 1, got 0"),
        (("--names", "mapo=x"), "--names: 'mapo' is not among --algorithms (did you mean mappo?)"),
        (("--names", "mappo"), "--names: 'mappo' is no NAME=TEXT"),
        (("--colours", "mappo=red"), "--colours: must be a mapping to colours like '#0072B2', got {'mappo': 'red'}"),
        (("--protocol", "configs/study/critiks.yaml"), "did you mean configs/study/critics.yaml?"),
        (("--protocol", "configs/study/critics.yaml"), "--algorithms is set by --protocol configs/study/critics.yaml"),
        (("--protocol", "configs/mappo.yaml"), "unknown setting 'model'"),
        (("--out", "README.md"), "--out README.md cannot be written to: File exists"),
        (("--overrides", "model.lrr=3"), "'lrr' is not accepted (did you mean lr?)"),
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


def test_a_protocol_sets_what_the_options_would(tmp_path: Path) -> None:
    protocol = tmp_path / "protocol.yaml"
    settings = {
        "algorithms": ["mappo", "tuned:configs/mappo_tuned.yaml"],
        "scenarios": ["3m", "8m"],
        "seeds": 3,
        "env_steps": 1000,
        "overrides": [],
        "baseline": "tuned",
        "acting": "sampled",
        "budgets": {"8m": 2000},
        "tuned_on": ["3m"],
        "names": {"tuned": "MAPPO, tuned"},
        "colours": {"tuned": "#0072B2", "mappo": "#000000"},
    }
    protocol.write_text(yaml.safe_dump(settings))
    grid = grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)]))
    tuned = {"mappo": [Path("configs/mappo.yaml")], "tuned": [Path("configs/mappo_tuned.yaml")]}
    looks = {look: settings[look] for look in ("names", "colours")}
    assert grid == Grid(tuned, ["3m", "8m"], [0, 1, 2], 1000, [], [], "tuned", ["3m"], "sampled", {"8m": 2000}, **looks)
    assert [cell.env_steps for cell in grid.cells(tmp_path)[:4]] == [1000, 1000, 2000, 2000]
    assert "--data.env_steps=2000" in grid.cells(tmp_path)[2].fit_arguments
    record = grid.join(tmp_path / "new")
    assert record["tuned_on"] == ["3m"] and record | looks == record
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
        ("names", {"--allow_code": "/x/evil.py"}, "names: a value must not begin with a dash"),
        ("seeds", -1, "seeds: a value must not begin with a dash"),
        ("seeds", [1000], "seeds: [1000] must be two or more, or how many (1 is seed 0)"),
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
        assert grid.names.keys() == grid.colours.keys() == grid.algorithms.keys()
        assert len(set(grid.colours.values())) == len(grid.algorithms)
        assert len(grid.cells(Path("runs/x"))) <= 200


def test_an_algorithm_has_one_colour_in_all_shipped_protocols() -> None:
    same = {Path("configs/random_delay.yaml"), Path("configs/critics/mappo.yaml")}  # other battles; the default critic
    colours: dict[tuple[Path, ...], set[str]] = {}
    for protocol in Path("configs/study").glob("*.yaml"):
        grid = grid_of(read_options(["--out", "runs/x", "--protocol", str(protocol)]))
        for label, configs in grid.algorithms.items():
            if label != "without_delay":  # one algorithm in two kinds of battles, which need two colours
                colours.setdefault(tuple(x for x in configs if x not in same), set()).add(grid.colours[label])
    assert {len(them) for them in colours.values()} == {1}, colours


def test_a_second_compare_on_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is in use: another process" in refusal(capsys, arguments(tmp_path))
    assert not (tmp_path / "study.yaml").exists()


def test_a_required_option_that_is_misspelt_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, ["--algoritms=mappo", "--scenarios", "3m", "--env_steps", "9", "--out", "x"])
    told = "the following arguments are required: --algorithms; unrecognized: --algoritms (did you mean --algorithms?)"
    assert message == f"error: {told}\n"


def test_help_answers_without_torch() -> None:
    code = "import sys\nfrom cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'lightning', 'ray'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--algorithms" in done.stdout, done.stderr
