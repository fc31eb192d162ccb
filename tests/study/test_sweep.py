"""The space of a sweep and how its trials are judged."""

from datetime import date
from pathlib import Path

import optuna
import pytest
import yaml

from amal.commands.sweep import run
from amal.study.grid.runs import Grid
from amal.study.records import StudyError
from amal.study.space import Space, as_overrides, examples, read_space, suggested
from amal.study.sweep import STARTUP_TRIALS, Candidate, Sweep
from tests.conftest import ROOT
from tests.runs import Cli
from tests.study.studies import EVALUATIONS, EVERY, write_run

SPACE = {
    "model.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "data.num_envs": {"low": 2, "high": 8, "step": 2},
    "batch": {"choices": [{"data.episodes_per_update": 8}, {"data.episodes_per_update": 16, "model.n_epochs": 2}]},
    "model.policy": {"choices": ["amal.networks.MLPPolicy", "amal.networks.GRUPolicy"]},
}


def space_file(folder: Path, content: object) -> Path:
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_space_suggests_arguments_of_fit(tmp_path: Path) -> None:
    space = read_space(space_file(tmp_path, SPACE), ())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    tried = [suggested(study.ask(), space) for _ in range(50)]
    assert all(1e-4 <= values["model.lr"] <= 1e-2 for values in tried)
    assert {values["data.num_envs"] for values in tried} == {2, 4, 6, 8}
    assert {values.get("model.n_epochs") for values in tried} == {None, 2}
    assert all((values["data.episodes_per_update"] == 16) == ("model.n_epochs" in values) for values in tried)
    words = as_overrides({"model.policy": "amal.networks.GRUPolicy", "model.lr": 1e-5, "x": [64, 64], "y": None})
    assert words == ["model.policy=amal.networks.GRUPolicy", "model.lr=1e-05", "x=[64, 64]", "y=null"]


@pytest.mark.parametrize(
    ("space", "configs"),
    [
        ("mappo", ["mappo"]),
        ("mappo_entity", ["mappo", "networks/entities"]),
        ("happo", ["happo"]),
        ("qmix", ["qmix"]),
        ("qmix", ["vdn"]),
    ],
    ids=lambda names: "+".join(names) if isinstance(names, list) else names,
)
def test_shipped_spaces_hold_arguments_of_their_algorithms(cli: Cli, space: str, configs: list[str]) -> None:
    names = [f"--config=configs/{name}.yaml" for name in configs]
    found = read_space(ROOT / "configs" / "sweep" / f"{space}.yaml", ())
    for words in examples(found):
        with pytest.raises(SystemExit) as stop:
            cli("fit", *names, *(f"--{word}" for word in words), "--print_config")
        assert stop.value.code == 0, words


def test_examples_of_a_space_hold_all_arguments_and_choices(tmp_path: Path) -> None:
    found = examples(read_space(space_file(tmp_path, SPACE), ()))
    assert len(found) == 2 and all(any(word.startswith("model.lr=") for word in words) for words in found)
    policies = {f"model.policy=amal.networks.{name}" for name in ("MLPPolicy", "GRUPolicy")}
    every = {word for words in found for word in words}
    assert policies | {"data.num_envs=2", "data.num_envs=8", "model.n_epochs=2", "model.lr=0.0001"} <= every


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "must be a mapping of arguments"),
        ({"model.lr": 3}, "model.lr: must be {choices: […]} or {low: …, high: …}, got 3"),
        ({"model.lr": {"low": 1, "hihg": 2}}, "unknown key 'hihg' (did you mean high?)"),
        ({"model.lr": {"low": 2, "high": 1}}, "low must be below high, got 2 and 1"),
        ({"model.lr": {"low": "a", "high": 1}}, "low must be a number, got 'a'"),
        ({"model.lr": {"low": 0, "high": 1, "log": True}}, "with log, low must be above 0"),
        ({"model.lr": {"choices": []}}, "choices must be a list"),
        ({"both": {"choices": [{"model.lr": 1}, 2]}}, "choices must all be mappings of arguments, or none of them"),
        ({"model.lr": {"low": 1, "high": 10**400}}, "-9,007,199,254,740,992 and 9,007,199,254,740,992, got 1000"),
        ({"model.lr": {"low": 1, "high": float("inf")}}, "high must be a number between -9,007,199,254,740,992 and"),
        ({"model.lr": {"low": float("nan"), "high": 1}}, "low must be a number between"),
        ({"model.lr": {"choices": [date(2020, 1, 1)]}}, "got datetime.date(2020, 1, 1); put a date in quotes"),
        ({"both": {"choices": [{"model.lr": [date(2020, 1, 1)]}]}}, "both: choices must be made of texts, finite"),
        ({"model.lr": {"choices": [float("nan")]}}, "choices must be made of texts, finite numbers, true"),
        ({date(2020, 1, 1): {"choices": [{"model.lr": 1}]}}, "2020-01-01: a name must be a text"),
        ({"data.scenario": {"choices": ["3m"]}}, "data.scenario is set by the sweep itself"),
        ({"both": {"choices": [{"data.scenario": "3m"}]}}, "data.scenario is set by the sweep itself"),
    ],
)
def test_a_bad_space_is_named_with_file_and_key(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(StudyError) as error:
        read_space(space_file(tmp_path, content), ("data.scenario",))
    assert words in str(error.value) and "space.yaml" in str(error.value) and "\n" not in str(error.value)


def judged(sweep: Sweep, candidate: Candidate, final: float) -> bool:
    """Whether it is pruned with runs that win so much; else it is complete."""
    for cell in candidate.cells:
        write_run(sweep.out, cell.algorithm, cell.scenario, cell.seed, final, arrival=1)
        candidate.done += 1
        if sweep.judge(candidate):
            sweep.give_up(candidate, pruned=True)
            return True
    assert sweep.complete(candidate) == pytest.approx(final, abs=0.05)
    return False


def test_a_candidate_that_wins_less_than_most_is_pruned_and_the_best_is_kept(tmp_path: Path) -> None:
    grid = Grid({"config": [ROOT / "configs" / "mappo.yaml"]}, ["3m", "8m"], [0], EVALUATIONS * EVERY)
    sweep = Sweep(grid, SPACE, tmp_path, f"sqlite:///{tmp_path / 'sweep.db'}", 0)
    trials = sweep.candidates(STARTUP_TRIALS + 2)
    rates = [0.5 + 0.05 * k for k in range(STARTUP_TRIALS)]
    assert not any(judged(sweep, next(trials), rate) for rate in rates)
    assert judged(sweep, next(trials), 0.2)
    assert not judged(sweep, next(trials), 0.9)
    assert next(trials, None) is None
    assert sweep.best is not None and sweep.best.number == STARTUP_TRIALS + 1
    with pytest.raises(StudyError, match="--env_steps: this sweep was begun with 20000"):
        Sweep(Grid(grid.algorithms, ["3m", "8m"], [0], 7), SPACE, tmp_path, f"sqlite:///{tmp_path / 'sweep.db'}", 0)


def test_no_candidate_is_tried_twice_and_a_small_space_ends_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Grid({"config": [ROOT / "configs" / "mappo.yaml"]}, ["3m"], [0], EVALUATIONS * EVERY)
    space: Space = {"model.lr": {"choices": [1e-4, 3e-4]}, "model.n_epochs": {"low": 1, "high": 2}}
    sweep = Sweep(grid, space, tmp_path, f"sqlite:///{tmp_path / 'sweep.db'}", 0)
    tried = []
    for candidate in sweep.candidates(9):
        assert not judged(sweep, candidate, 0.5)
        tried.append(tuple(candidate.trial.params.values()))
    assert len(tried) == len(set(tried)) == 4
    assert run(sweep, 9, parallel=1) == 0
    assert "ended after 4 of 9 trials: the space has no other candidates\nbest: trial" in capsys.readouterr().out
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + 4


def test_a_candidate_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    grid = Grid({"config": [ROOT / "configs" / "mappo.yaml"]}, ["3m"], [0], EVALUATIONS * EVERY)
    space: Space = {"model.lr": {"choices": [1e-4]}}
    sweep = Sweep(grid, space, tmp_path, f"sqlite:///{tmp_path / 'sweep.db'}", 0)
    trials = sweep.candidates(3)
    sweep.give_up(next(trials), pruned=False)
    assert not judged(sweep, next(trials), 0.5)
    assert next(trials, None) is None


def test_settings_may_be_mended_until_a_trial_counts(tmp_path: Path) -> None:
    configs, storage = {"config": [ROOT / "configs" / "mappo.yaml"]}, f"sqlite:///{tmp_path / 'sweep.db'}"
    wrong = {"model.lrr": SPACE["model.lr"], "model.policy": SPACE["model.policy"]}
    sweep = Sweep(Grid(configs, ["3m"], [0], 100, ["model.gama=1"]), wrong, tmp_path, storage, 0)
    sweep.write()
    assert (tmp_path / "trials.csv").read_text().startswith("trial,state,area_under_curve,seconds"), "before any trial"
    sweep.give_up(next(sweep.candidates(1)), pruned=False)
    grid, mended = Grid(configs, ["3m"], [0], 200, ["model.gamma=1"]), {**wrong, "model.lr": SPACE["model.lr"]}
    with pytest.raises(StudyError, match="--space: this sweep was begun with other content"):
        Sweep(grid, {"model.policy": {"choices": ["amal.networks.MLPPolicy"]}}, tmp_path, storage, 0)
    sweep = Sweep(grid, mended, tmp_path, storage, 0)
    next(sweep.candidates(2))
    with pytest.raises(StudyError, match="--env_steps: this sweep was begun with 200"):
        Sweep(Grid(configs, ["3m"], [0], 100, ["model.gamma=1"]), mended, tmp_path, storage, 0)


def test_the_shipped_space_holds_the_tuned_configuration() -> None:
    space = read_space(ROOT / "configs" / "sweep" / "mappo.yaml", ())
    tuned = yaml.safe_load((ROOT / "configs" / "mappo_tuned.yaml").read_text())["data"]["episodes_per_update"]
    assert {"data.episodes_per_update": tuned} in space["batch"]["choices"]
