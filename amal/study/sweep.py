"""A sweep: trials of an Optuna study, each a small grid of training runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from amal.runtime.atomic import replacing
from amal.runtime.locks import FolderNotOurs, locked
from amal.runtime.yaml_files import read_yaml
from amal.study.analysis.scores import area_under_curve, read_run
from amal.study.grid.runs import Cell, Grid, last_row
from amal.study.records import StudyError
from amal.study.space import Space, as_overrides, suggested

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 5  # complete before any is pruned
ATTEMPTS = 100  # to find a candidate that has not been tried
TENTHS = 10  # of a run's budget, at which its trial is judged
STUDY = "sweep"  # the study's name in its storage
_FOLDER = "folder"  # user attribute of a trial: where its runs are
_REPETITION = "repetition"  # of an earlier trial; counts for nothing


def import_optuna() -> Any:
    """Optuna's module, quiet. Raises StudyError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise StudyError("sweep needs Optuna, which is not installed: pip install optuna") from error
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna


@dataclass
class Candidate:
    """A trial that runs here.

    Attributes:
        trial: of Optuna.
        cells: its runs, in the order in which they are made.
        done: how many of them have ended.
        judged: steps of ``judge`` that Optuna has been told.
        lock: released when it ends.
    """

    trial: optuna.Trial
    cells: list[Cell]
    lock: ExitStack
    done: int = 0
    judged: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        return self.cells[self.done]


class Sweep:
    """Asks an Optuna study for candidates and tells it what became of them.

    A candidate's value is the mean area under the win-rate curves of its runs. After each tenth of a run it is judged
    by the same measure up to there, against the median of earlier candidates.

    Args:
        grid: what a candidate is run on; its one algorithm is the configuration that candidates vary.
        space: what is varied.
        out: folder of this sweep's runs.
        storage: URL of Optuna's storage, which other processes and machines may share.
        seed: of the sampler.

    Raises:
        StudyError: the storage cannot be used, or holds a sweep with other settings.
    """

    def __init__(self, grid: Grid, space: Space, out: Path, storage: str, seed: int) -> None:
        self.grid, self.space, self.out = grid, space, out.resolve()
        optuna = import_optuna()
        self._states = optuna.trial.TrialState
        try:
            backend = optuna.storages.get_storage(storage)
            self.study = optuna.create_study(
                storage=backend,
                study_name=STUDY,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=TENTHS // 3),
            )
        except Exception as error:  # of whatever library the URL needs
            raise StudyError(f"--storage {storage}: {' '.join(str(error).split())[:200]}") from None
        # trials that run elsewhere are no reason to try the same; processes that begin together draw differently
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(self.study.trials), constant_liar=True)
        self._check_settings()

    def _check_settings(self) -> None:
        record = self.grid.record()
        settings = {name: record[name] for name in ("env_steps", "overrides", "scenarios", "seeds")}
        settings |= {"config": [entry["sha256"] for entry in record["algorithms"]["config"]]}
        settings |= {"space": {name: dict(given) for name, given in self.space.items()}}
        known, trials = self.study.user_attrs, self.study.get_trials(deepcopy=False)
        is_begun = any(trial.state != self._states.FAIL for trial in trials)
        for name, value in settings.items():
            was = known.get(name, value)
            # trials that have failed count for nothing, but Optuna takes no other values for a name that they have
            if was != value and (is_begun or (name == "space" and trials and _differ(was, value))):
                told = f" {was!r}" if name not in ("config", "space") else " other content"
                raise StudyError(f"--{name}: this sweep was begun with{told}; choose another --out or --storage")
            if known.get(name) != value:
                self.study.set_user_attr(name, value)

    def candidates(self, number: int) -> Iterator[Candidate]:
        """Those that a killed sweep left behind in this folder, then new ones, until the study has so many trials or
        every candidate has been tried."""
        for frozen in self.study.get_trials(states=[self._states.RUNNING]):
            if frozen.user_attrs.get(_FOLDER) == str(self.out / f"trial_{frozen.number}"):
                candidate = self._candidate(self._running(frozen))
                if candidate is not None:  # else another process of this machine is at it
                    yield candidate
        while self.n_trials < number:
            trial = self._untried()
            if trial is None:
                return
            candidate = self._candidate(trial)
            assert candidate is not None
            yield candidate

    @property
    def n_trials(self) -> int:
        """Trials so far, without repetitions."""
        return len(self._counted())

    def _counted(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if _REPETITION not in trial.user_attrs]

    def _untried(self) -> optuna.Trial | None:
        """A candidate that no trial has had but those that failed, or None if the sampler finds none. Equal runs have
        equal numbers, so a repetition would tell nothing; Optuna's sampler makes many among a few choices."""
        for _ in range(ATTEMPTS):
            trial = self.study.ask()
            suggested(trial, self.space)
            others = (other for other in self._counted() if other.number != trial.number)
            if all(other.params != trial.params or other.state == self._states.FAIL for other in others):
                return trial
            trial.set_user_attr(_REPETITION, True)
            self.study.tell(trial, state=self._states.FAIL)
        return None

    def _running(self, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
        return import_optuna().trial.Trial(self.study, frozen._trial_id)

    def _candidate(self, trial: optuna.Trial) -> Candidate | None:
        name, lock = f"trial_{trial.number}", ExitStack()
        try:
            lock.enter_context(locked(self.out / name))
        except FolderNotOurs:
            return None
        trial.set_user_attr(_FOLDER, str(self.out / name))
        values = suggested(trial, self.space)
        (configs,) = self.grid.algorithms.values()
        overrides = [*self.grid.overrides, *as_overrides(values)]
        cells = replace(self.grid, algorithms={name: configs}, overrides=overrides).cells(self.out)
        done = next((i for i, cell in enumerate(cells) if not cell.is_finished()), len(cells))
        judged = len(trial.storage.get_trial(trial._trial_id).intermediate_values)
        return Candidate(trial, cells, lock, done, judged, values)

    def judge(self, candidate: Candidate) -> bool:
        """Tells Optuna how a candidate does up to the last tenth it has completed; whether it should be pruned."""
        while candidate.judged < len(candidate.cells) * TENTHS:
            runs, tenth = divmod(candidate.judged + 1, TENTHS)
            steps = self.grid.env_steps * tenth / TENTHS
            if runs > candidate.done:
                return False
            if tenth and runs == candidate.done and self._evaluated_until(candidate) < steps:
                return False
            areas = [self._area(cell, self.grid.env_steps) for cell in candidate.cells[:runs]]
            if tenth:
                areas.append(self._area(candidate.cells[runs], steps) * tenth / TENTHS)
            candidate.judged += 1
            candidate.trial.report(sum(areas) / (runs + tenth / TENTHS), candidate.judged)
            if candidate.judged < len(candidate.cells) * TENTHS and candidate.trial.should_prune():
                return True
        return False

    def _evaluated_until(self, candidate: Candidate) -> float:
        return last_row(candidate.cell.folder / "evaluations.csv").get("env_steps", 0.0)

    @staticmethod
    def _area(cell: Cell, until: float) -> float:
        return area_under_curve(read_run(cell.folder, cell.seed, count_stopped=True), until=until)

    def complete(self, candidate: Candidate) -> float:
        """Tells Optuna the value of a candidate whose runs have all ended."""
        value = sum(self._area(cell, self.grid.env_steps) for cell in candidate.cells) / len(candidate.cells)
        self.study.tell(candidate.trial, value)
        candidate.lock.close()
        return value

    def give_up(self, candidate: Candidate, pruned: bool) -> None:
        """Tells Optuna that a candidate was pruned, or has failed."""
        self.study.tell(candidate.trial, state=self._states.PRUNED if pruned else self._states.FAIL)
        candidate.lock.close()

    @property
    def best(self) -> optuna.trial.FrozenTrial | None:
        complete = self.study.get_trials(states=[self._states.COMPLETE])
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def write(self) -> None:
        """``trials.csv``, a row per trial, and ``best.yaml``, the configuration of the best one."""
        columns = {"number": "trial", "value": "area_under_curve"}
        table = self.study.trials_dataframe(attrs=("number", "state", "value", "duration", "params"))
        counted = [trial.number for trial in self._counted()]
        table = table[table["number"].isin(counted)] if counted else table
        table = table.rename(columns=columns).rename(columns=lambda name: name.removeprefix("params_"))
        table = table.reindex(columns=list(dict.fromkeys(["trial", "state", "area_under_curve", "duration", *table])))
        table["duration"] = pd.to_timedelta(table["duration"]).dt.total_seconds().round()
        with replacing(self.out / "trials.csv") as part:
            table.rename(columns={"duration": "seconds"}).to_csv(part, index=False)
        if self.best is None or _FOLDER not in self.best.user_attrs:
            return
        runs = sorted(Path(self.best.user_attrs[_FOLDER]).glob("*/seed_*/config.yaml"))
        if not runs:  # on the disk of another machine
            return
        config = read_yaml(runs[0])
        config["data"] |= {"env_steps": None, "episodes": None}
        told = f"# The best of {self.n_trials} trials of a sweep: trial {self.best.number}, whose mean area "
        told += f"under the win-rate curve is {self.best.value:.3f}.\n"
        with replacing(self.out / "best.yaml") as part:
            text = yaml.safe_dump({name: config[name] for name in ("model", "data")}, sort_keys=False)
            part.write_text(told + text, encoding="utf-8")


def _differ(was: Space, now: Space) -> bool:
    """Whether a name that is in both spaces has other values in the second."""
    return any(was[name] != now[name] for name in was.keys() & now.keys())
