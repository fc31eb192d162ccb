"""Which runs of a study are compared: a scenario's seeds that all algorithms have finished, and what was left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from amal.battle.battlefield import delay_in_words
from amal.battle.entries import nearest
from amal.study.analysis.scores import FINAL_EVALUATIONS, EvaluationProtocol, Run, of_sampled, read_run
from amal.study.records import BASELINE, SAMPLED, planned_tests, read_record

_Cell = tuple[str, str, int]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A study's runs, and those of them that enter the statistics.

    Attributes:
        study: its folder.
        algorithms: the baseline first, then by name.
        runs: the runs of these algorithms that have a run.json.
        absent: state of the cells without one or with broken files, by algorithm, scenario and seed.
        seeds: by scenario, the seeds that every algorithm with a finished run there has finished.
        counted: the scenarios that enter aggregates, corrected tests and the verdict.
        n_seeds: number of seeds of each counted scenario that enter aggregates, the first ones.
        tuned_on: scenarios that were used to tune algorithms; they do not count.
        family: number of planned tests (``amal.study.records.planned_tests``). P-values are corrected over all of them,
            also where fewer algorithms are shown or runs are missing.
        record: study.yaml, if there is one.
        folders: of the algorithms in the study, by the names that study.yaml gives them for reports.
    """

    study: Path
    algorithms: Sequence[str]
    runs: Sequence[Run]
    absent: Mapping[_Cell, str]
    seeds: Mapping[str, Sequence[int]]
    counted: Sequence[str]
    n_seeds: int
    tuned_on: Sequence[str]
    family: int
    record: Mapping[str, Any] | None
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        return self.algorithms[0]

    @property
    def has_tests(self) -> bool:
        """Whether a scenario has several seeds, without which there is no test and no interval."""
        return max(map(len, self.seeds.values()), default=0) > 1

    def cell(self, algorithm: str, scenario: str) -> list[Run]:
        """The runs of a cell that enter the statistics, by seed; none if the algorithm has finished none there."""
        here = [run for run in self.runs if (run.algorithm, run.scenario) == (algorithm, scenario) and run.finished]
        return sorted((run for run in here if run.seed in self.seeds[scenario]), key=lambda run: run.seed)

    def compared(self, scenario: str) -> list[str]:
        """The algorithms with runs in the statistics of a scenario."""
        return [algorithm for algorithm in self.algorithms if self.cell(algorithm, scenario)]

    def scenarios(self) -> list[str]:
        """The scenarios that have statistics."""
        return [scenario for scenario, seeds in self.seeds.items() if seeds]

    def counted_runs(self, algorithm: str) -> dict[str, list[Run]]:
        """The runs that enter aggregates, equally many of each counted scenario."""
        return {scenario: self.cell(algorithm, scenario)[: self.n_seeds] for scenario in self.counted}

    def named(self) -> Comparison:
        """The same with the names that study.yaml gives algorithms for reports. Raises ValueError if two are alike."""
        record = self.record or {}
        names = {folder: (record.get("names") or {}).get(folder, folder) for folder in self.algorithms}
        folders = {name: folder for folder, name in names.items()}
        if len(folders) < len(names):
            twice = next(name for folder, name in names.items() if folders[name] != folder)
            raise ValueError(f"{self.study / 'study.yaml'}: names: {twice!r} would be the name of two algorithms")
        return replace(
            self,
            algorithms=[names[folder] for folder in self.algorithms],
            runs=[replace(run, algorithm=names[run.algorithm]) for run in self.runs],
            absent={(names[folder], *cell): state for (folder, *cell), state in self.absent.items()},
            folders=folders,
        )

    def is_used(self, run: Run) -> bool:
        return run.finished and run.seed in self.seeds[run.scenario]

    def protocols(self) -> set[EvaluationProtocol]:
        """How the runs in the statistics were evaluated, or all runs if none is: usually a single way."""
        return {run.protocol for run in self.runs if self.is_used(run)} or {run.protocol for run in self.runs}

    @property
    def one_battle(self) -> float:
        """What one battle of an evaluation is of a final score."""
        return 1 / (FINAL_EVALUATIONS * min(protocol.episodes for protocol in self.protocols()))


def read_comparison(
    study: Path, baseline: str | None = None, only: Sequence[str] = (), count_stopped: bool = False
) -> Comparison:
    """Read a study and choose what is compared.

    Args:
        study: folder of the runs; scenarios that its study.yaml lists as ``tuned_on`` do not count.
        baseline: the algorithm that the others are compared with; by default the one in study.yaml, else "mappo".
        only: the algorithms to compare beside the baseline, by default all.
        count_stopped: whether runs that a callback has stopped count as finished.

    Raises:
        ValueError: there is no run or no such algorithm, a file cannot be read, or some runs fought with a random delay
            and others without or with another one; the message is one line.
    """
    if not study.is_dir():
        raise ValueError(f"{study}: no such folder")
    record = read_record(study)
    runs, absent = _read_cells(study, record or {}, count_stopped)
    return _compared(study, runs, absent, record, baseline, only)


def compare_runs(runs: Sequence[Run], baseline: str | None = None, only: Sequence[str] = ()) -> Comparison:
    """Choose what is compared of runs that need not lie in one study; otherwise as ``read_comparison``."""
    places: dict[_Cell, Path] = {}
    for run in runs:
        if _key(run) in places:
            raise ValueError(
                f"{run.path}: is of {run.algorithm} {run.scenario} seed {run.seed} like {places[_key(run)]}; tell them "
                "apart by a name: NAME=FOLDER"
            )
        places[_key(run)] = run.path
    names = {run.algorithm for run in runs}
    if baseline is None and len(names) == 1:
        (baseline,) = names
    where = Path(os.path.commonpath([run.path.absolute() for run in runs]))
    return _compared(where, sorted(runs, key=_key), {}, None, baseline, only)


def _compared(
    study: Path,
    runs: Sequence[Run],
    absent: Mapping[_Cell, str],
    record: Mapping[str, Any] | None,
    baseline: str | None,
    only: Sequence[str],
) -> Comparison:
    baseline = baseline or (record or {}).get("baseline") or BASELINE
    known = sorted({run.algorithm for run in runs} | {algorithm for algorithm, _, _ in absent})
    for option, name in [("--baseline", baseline), *(("--algorithms", name) for name in only)]:
        if name not in known:
            hint = nearest(name, known)
            raise ValueError(f"{option}: no algorithm {name!r} in {study}{hint}; there are {', '.join(known)}")
    algorithms = [baseline, *(name for name in known if name != baseline and (not only or name in only))]
    scenarios = {run.scenario for run in runs} | {scenario for _, scenario, _ in absent}
    tuned_on = (record or {}).get("tuned_on", [])
    tests = planned_tests(known, sorted(scenarios), baseline, tuned_on)["tests"]
    runs = [run for run in runs if run.algorithm in algorithms]
    named = {f"{run.algorithm} {run.scenario} seed_{run.seed}": run for run in runs}
    check_same_battles(study, named, "report an algorithm alone with --baseline NAME --algorithms NAME")
    absent = {cell: state for cell, state in absent.items() if cell[0] in algorithms}
    order = (record or {}).get("scenarios", [])
    complete = complete_seeds(runs)
    seeds = {name: complete[name] for name in [*filter(complete.__contains__, order), *sorted(complete)]}
    counted, n_seeds = _largest_block(seeds, runs, algorithms, tuned_on)
    return Comparison(study, algorithms, runs, absent, seeds, counted, n_seeds, tuned_on, tests, record)


def _read_cells(study: Path, record: Mapping[str, Any], count_stopped: bool) -> tuple[list[Run], dict[_Cell, str]]:
    """The runs, and the states of the other cells: folders without run.json, broken files and missing folders."""
    runs: list[Run] = []
    absent: dict[_Cell, str] = {}
    for path in sorted(study.glob("*/*/seed_*")):
        match = re.fullmatch(r"seed_(\d+)", path.name)
        if match is None or not path.is_dir():
            continue
        cell = path.parent.parent.name, path.parent.name, int(match[1])
        if not (place := f"{cell[0]}/{cell[1]}").isprintable():  # else a terminal would obey what a stranger wrote
            raise ValueError(f"{study}: rename the folder {place!r}, whose name is not printable")
        try:
            if (path / "run.json").exists():
                run = read_run(path, cell[2], count_stopped)
                runs.append(of_sampled(run) if record.get("acting") == SAMPLED else run)
            else:
                absent[cell] = "no run.json yet"
        except ValueError as error:
            absent[cell] = f"broken: {' '.join(str(error).split())}"
    if not runs:
        begun = f"; {len(absent)} are there that cannot be used ({next(iter(absent.values()))})" if absent else ""
        raise ValueError(f"{study}: no run in it{begun}; runs are looked for in ALGORITHM/SCENARIO/seed_K")
    runs.sort(key=_key)
    present = {*map(_key, runs), *absent}
    absent |= {cell: "missing" for cell in _planned(present, record) if cell not in present}
    return runs, dict(sorted(absent.items()))


def _planned(present: Iterable[_Cell], record: Mapping[str, Any]) -> list[_Cell]:
    """The grid of study.yaml; without one, the grid that the existing folders span."""
    axes = [list(dict.fromkeys(axis)) for axis in zip(*present, strict=True)]
    names = "algorithms", "scenarios", "seeds"
    return list(product(*(record.get(name) or axis for name, axis in zip(names, axes, strict=True))))


def check_same_battles(place: Path, runs: Mapping[str, Run], instead: str) -> None:
    """Raises ValueError unless all runs have the same random delay: win rates with and without do not compare.

    Args:
        place: the folder that all lie in.
        runs: by name.
        instead: what can be done, for the message.
    """
    kinds: dict[str, list[str]] = {}
    for name, run in runs.items():
        kinds.setdefault(delay_in_words(run.record.get("random_delay")), []).append(name)
    if len(kinds) > 1:
        others = {kind: f" and {len(cells) - 1} more" if len(cells) > 1 else "" for kind, cells in kinds.items()}
        named = (f"{kind} {cells[0]}{others[kind]}" for kind, cells in kinds.items())
        raise ValueError(
            f"{place}: these runs fought different battles, whose win rates do not compare: {'; '.join(named)}; "
            f"{instead}"
        )


def _key(run: Run) -> _Cell:
    return run.algorithm, run.scenario, run.seed


def complete_seeds(runs: Sequence[Run]) -> dict[str, list[int]]:
    """By scenario, the seeds that every algorithm with a finished run there has finished."""
    complete: dict[str, list[int]] = {}
    for scenario in sorted({run.scenario for run in runs}):
        finished: dict[str, set[int]] = {}
        for run in runs:
            if run.scenario == scenario and run.finished:
                finished.setdefault(run.algorithm, set()).add(run.seed)
        complete[scenario] = sorted(set.intersection(*finished.values())) if finished else []
    return complete


def _largest_block(
    seeds: Mapping[str, Sequence[int]], runs: Sequence[Run], algorithms: Sequence[str], tuned_on: Sequence[str]
) -> tuple[list[str], int]:
    """Scenarios and number of seeds of the largest rectangle of complete cells; the one with more seeds on a tie.

    Aggregates need equally many runs of each scenario. The choice does not depend on results.
    """
    finished = {(run.algorithm, run.scenario) for run in runs if run.finished}
    lengths = {
        scenario: len(complete)
        for scenario, complete in seeds.items()
        if complete and scenario not in tuned_on and all((name, scenario) in finished for name in algorithms)
    }
    if not lengths:
        return [], 0
    sizes = {n: sum(length >= n for length in lengths.values()) * n for n in lengths.values()}
    n_seeds = max(sizes, key=lambda n: (sizes[n], n))
    return [scenario for scenario, length in lengths.items() if length >= n_seeds], n_seeds
