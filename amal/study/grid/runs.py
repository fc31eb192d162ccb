"""The grid of a study: its cells, their folders and states, and the settings that they share."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from amal.battle.entries import nearest
from amal.battle.scenario import is_file, name_of
from amal.runtime.locks import refuse_foreign
from amal.runtime.versions import code_version
from amal.study.records import GREEDY, STUDY_MAY_HAVE, StudyError, planned_tests, read_record

START_MARK = "=== "  # begins the line of a log that says when and how a session of its cell was started
SETTINGS = ("env_steps", "overrides", "baseline", "tuned_on", "acting")  # of a study, the same for all its runs
_TAIL_BYTES = 16384
_ERROR_LINE = re.compile(r"(error:|fatal\b|[\w.]+(Error|Exception)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    """One training run of a study.

    Attributes:
        study: folder of the study, absolute.
        env_steps: its budget.
        fit_arguments: arguments of ``fit`` that begin the run, apart from seed and folder.
        allowed_code: foreign code that its configuration may name, see ``amal.runtime.trusted_code``.
    """

    study: Path
    algorithm: str
    scenario: str
    seed: int
    env_steps: int
    fit_arguments: tuple[str, ...] = ()
    allowed_code: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.algorithm} {self.scenario} seed_{self.seed}"

    @property
    def folder(self) -> Path:
        return self.study / self.algorithm / self.scenario / f"seed_{self.seed}"

    @property
    def log(self) -> Path:
        return self.study / "logs" / f"{self.algorithm}-{self.scenario}-seed_{self.seed}.log"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def is_finished(self) -> bool:
        """Whether the run is finished and its files can be read by a report."""
        return self._state()[0]

    def fault(self) -> str:
        """Which of the run's files is broken, or missing from a finished run; empty if none is."""
        return self._state()[1]

    def _state(self) -> tuple[bool, str]:
        from amal.study.analysis.scores import read_run  # which loads pandas, for which --help need not wait

        if not (self.folder / "run.json").exists():
            return False, ""
        try:
            return read_run(self.folder, self.seed, count_stopped=True).finished, ""
        except ValueError as error:
            return False, " ".join(str(error).split())

    def set_aside(self) -> Path:
        """Rename the folder, so that the run can begin anew and nothing is lost. Returns the new path."""
        name = f"broken_{self.folder.name}"
        others = (self.folder.with_name(f"{name}-{number}") for number in count(2))
        aside = next(path for path in chain([self.folder.with_name(name)], others) if not path.exists())
        return self.folder.rename(aside)

    def next_arguments(self) -> list[str]:
        """Arguments of ``fit`` that continue the run from its last checkpoint, or begin it if there is none."""
        allowed = [f"--allow_code={name}" for name in self.allowed_code]
        if self.checkpoint.is_file():
            return ["--config", str(self.folder / "config.yaml"), "--ckpt_path", str(self.checkpoint), *allowed]
        return [*self.fit_arguments, f"--seed_everything={self.seed}", "--out", str(self.folder), *allowed]

    def last_error(self) -> str:
        """Of the log's latest session, the last line with an error, else the last line."""
        lines = []
        for line in reversed(_tail(self.log).decode(errors="replace").splitlines()):
            if line.startswith(START_MARK):
                break
            if line.strip():
                lines.append(line.strip())
        return next((line for line in lines if _ERROR_LINE.match(line)), lines[0] if lines else "")


@dataclass(frozen=True)
class Grid:
    """What ``compare`` was asked to run.

    Attributes:
        algorithms: config files by label, later ones over earlier ones.
        scenarios: names, or paths of files.
        seeds: of the runs of each algorithm on each scenario.
        env_steps: budget of each run, where ``budgets`` has no other.
        overrides: further arguments of every ``fit``, KEY=VALUE.
        allowed_code: see ``Cell``; it is not recorded, so that every ``compare`` has to allow it again.
        baseline: the algorithm that the report compares the others with.
        tuned_on: scenarios that the report draws no conclusions from.
        acting: whose win rates the report concludes from, of "greedy" or of "sampled" actions.
        budgets: env steps of the runs on some scenarios, by name.
        names: of algorithms in reports, by label.
        colours: of algorithms in reports, by label, like #0072B2.
    """

    algorithms: Mapping[str, Sequence[Path]]
    scenarios: Sequence[str]
    seeds: Sequence[int]
    env_steps: int
    overrides: Sequence[str] = ()
    allowed_code: Sequence[str] = ()
    baseline: str | None = None
    tuned_on: Sequence[str] = ()
    acting: str = GREEDY
    budgets: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)

    def cells(self, study: Path) -> list[Cell]:
        """All cells, by seed first: the algorithms advance together and the first seed is complete early."""
        return [
            Cell(
                study.resolve(),
                algorithm,
                name_of(scenario),
                seed,
                self.budget(scenario),
                self._fit_arguments(configs, scenario),
                tuple(self.allowed_code),
            )
            for seed in self.seeds
            for scenario in self.scenarios
            for algorithm, configs in self.algorithms.items()
        ]

    def budget(self, scenario: str) -> int:
        """Env steps of each run on it."""
        return self.budgets.get(name_of(scenario), self.env_steps)

    def _fit_arguments(self, configs: Sequence[Path], scenario: str) -> tuple[str, ...]:
        return (
            *(f"--config={path.resolve()}" for path in configs),
            "--checkpoint.keep_learning_state=false",  # of AMAL a gigabyte for each run of a study
            "--trainer.callbacks+=callbacks.FinalTest",
            *(f"--{override}" for override in self.overrides),  # one word each: a value may begin with a dash
            f"--data.scenario={scenario}",
            f"--data.env_steps={self.budget(scenario)}",
        )

    def record(self) -> dict[str, Any]:
        """The settings as they are kept in study.yaml."""
        return {
            "env_steps": self.env_steps,
            "overrides": list(self.overrides),
            "algorithms": {name: [_fingerprint(path) for path in paths] for name, paths in self.algorithms.items()},
            "scenarios": [name_of(scenario) for scenario in self.scenarios],
            "scenario_files": {name_of(path): [_fingerprint(Path(path))] for path in self.scenarios if is_file(path)},
            "seeds": list(self.seeds),
            "baseline": self.baseline,
            "tuned_on": list(self.tuned_on),
            "acting": self.acting,
            "budgets": dict(self.budgets),
            "names": dict(self.names),
            "colours": dict(self.colours),
        }

    def join(self, study: Path) -> dict[str, Any]:
        """The study's record with this grid added. Raises StudyError if the new runs would not be comparable to the
        existing ones."""
        new, old = self.record(), read_record(study)
        if old is None:
            stray = next((cell.folder for cell in self.cells(study) if cell.folder.exists()), None)
            if stray is not None:
                raise StudyError(f"{stray} exists, but no {study / 'study.yaml'} that tells how it was made")
            refuse_foreign(study, "study.yaml")
            empty: dict[str, Any] = {"algorithms": {}, "scenarios": [], "scenario_files": {}, "seeds": []}
            old = {"created": _now(), **new, **empty, "history": []}
        if not any(study.glob("*/*/seed_*/*")):
            old |= {key: new[key] for key in SETTINGS}  # no run has begun with the old ones, which may have had a typo
            others = {k: v for k, v in old.get("budgets", {}).items() if k not in new["scenarios"]}
            old["budgets"] = others | new["budgets"]
        _check_same(study, old, new)
        added = {axis: [x for x in new[axis] if x not in old[axis]] for axis in ("algorithms", "scenarios", "seeds")}
        code = code_version()
        if any(added.values()) or code != old["history"][-1]["code_version"]:
            added = {axis: names for axis, names in added.items() if names}
            old["history"].append({"date": _now(), "code_version": code, "added": added})
        old["algorithms"] = {**new["algorithms"], **old["algorithms"]}
        if self.baseline is not None and self.baseline not in old["algorithms"]:
            hint = nearest(self.baseline, list(old["algorithms"]))
            raise StudyError(f"--baseline: {self.baseline!r} is not among --algorithms{hint}")
        for look in ("names", "colours"):  # which may change at any time
            old[look] = {**(old.get(look) or {}), **new[look]}
            if (unknown := next((name for name in new[look] if name not in old["algorithms"]), None)) is not None:
                hint = nearest(unknown, list(old["algorithms"]))
                raise StudyError(f"--{look}: {unknown!r} is not among --algorithms{hint}")
            if not (kind := STUDY_MAY_HAVE[look]).accepts(old[look]):
                raise StudyError(f"--{look}: must be {kind.words}, got {old[look]}")
        old["budgets"] = {**old.get("budgets", {}), **new["budgets"]}
        old["scenario_files"] = {**new["scenario_files"], **old.get("scenario_files", {})}
        old["scenarios"] += added.get("scenarios", [])
        old["seeds"] = sorted({*old["seeds"], *new["seeds"]})
        old["family"] = planned_tests(old["algorithms"], old["scenarios"], old["baseline"], old["tuned_on"])
        return old


def _check_same(study: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key in SETTINGS:
        was, now = map(_in_words, (old.get(key), new[key]))
        if (was or None) != (now or None):
            was, now = was or "none", now or "none"
            raise StudyError(f"{study} was begun with --{key} {was}, not {now}; choose another --out")
    for name in (name for name in new["scenarios"] if name in old["scenarios"]):
        was, now = (record.get("budgets", {}).get(name, record["env_steps"]) for record in (old, new))
        if was != now:
            raise StudyError(f"{study} was begun with {was} env steps on {name}, not {now}; choose another --out")
    _check_same_files(study, old["algorithms"], new["algorithms"])
    _check_same_files(study, old.get("scenario_files", {}), new["scenario_files"])


def _in_words(setting: Any) -> Any:
    return " ".join(setting) if isinstance(setting, list) else setting


def _check_same_files(study: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name, configs in new.items():
        if name not in old:
            continue
        before = old[name]
        if len(before) != len(configs):
            was = ", ".join(config["path"] for config in before)
            raise StudyError(f"{study} was begun with {was} as {name!r}; choose another label or another --out")
        for was, now in zip(before, configs, strict=True):
            if was["sha256"] != now["sha256"]:
                what = "has changed since then" if was["path"] == now["path"] else f"is not {now['path']}"
                raise StudyError(
                    f"{study} was begun with {was['path']} as {name!r}, which {what}; "
                    "choose another label or another --out"
                )


def _fingerprint(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def last_row(path: Path) -> dict[str, float]:
    """The last complete row of a CSV file of numbers; empty if there is none."""
    try:
        with path.open("rb") as file:
            names = file.readline().decode().strip().split(",")
            start = file.tell()
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line's end is still being written
        row = dict(zip(names, lines[-1].decode().strip().split(","), strict=True))
        return {name: float(value) for name, value in row.items() if value}
    except (OSError, ValueError, IndexError):
        return {}


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
