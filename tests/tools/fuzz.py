"""Damaged and hostile files, thrown at the command line for a while: what comes of each is counted.

python tests/tools/fuzz.py --minutes 30 --seed 0

Each case changes a shipped or freshly made file (a config, a checkpoint, a scenario file, a study's record) in a few
places and runs one command on it, in a process of its own. Good ends are a success, and one line with exit code 2, or
with 1 where training had begun; some changes are harmless. Everything else counts as a failure, and its files are kept:
a traceback, silence, a signal, a time-out, code that nobody allowed (it would leave a canary), a folder left behind by
a run that was refused.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import multiprocessing
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SECONDS = 120.0  # for one case
MEMORY = 16 * 2**30  # address space, in bytes
CRASHED = 70  # exit code of a case that ended in an exception
TINY = ["--data.episodes=8", "--data.episodes_per_update=4", "--data.num_envs=4"]
MAPPO = ROOT / "configs" / "mappo.yaml"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml")) + sorted((ROOT / "configs" / "ablations").rglob("*.yaml"))
SCENARIO = """
units:
  goliath: {hp: 125, armor: 1, size: 1.5, speed: 3.15, attributes: [armored, mechanical], targets: [ground, air],
            attack_range: 5, damage: 12, cooldown: 1.07, bonuses: {light: 4}}
scenario:
  terrain: simple
  episode_limit: 20
  attack_point: [9, 16]
  groups:
    - {side: ally, centre: [9, 16], units: {goliath: 3}}
    - {side: enemy, centre: [23, 16], units: {zergling: 8}}
"""


class Case:
    """One change of one file, and the command that meets it."""

    def __init__(self, seed: int, folder: Path, run: Path) -> None:
        self.random = random.Random(seed)
        self.seed, self.folder, self.run = seed, folder, run
        self.canary = folder / "canary"
        self.out = folder / "out"
        self.kind = self.random.choice(list(KINDS))

    def command(self) -> list[str]:
        self.folder.mkdir(parents=True)
        return KINDS[self.kind](self)

    def hostile(self) -> Any:
        """A value that belongs nowhere."""
        touch = {"class_path": "os.system", "init_args": {"command": f"touch {self.canary}"}}
        called = {
            "class_path": "lightning.pytorch.cli.instantiate_class",
            "init_args": {"args": f"touch {self.canary}", "init": {"class_path": "os.system"}},
        }
        (self.folder / "evil.py").write_text(f"open({str(self.canary)!r}, 'w')\nclass Evil: pass\n")
        source = {"class_path": "amal.networks.EPyMARLCritic", "init_args": {"source": f"{self.folder}/evil.py:Evil"}}
        plain = [None, True, -1, 0, 10**30, 1e-320, float("nan"), float("inf"), "", "x", "../..", "é" * 300, [], {}]
        return self.random.choice(
            [
                *plain,
                [[[]]],
                {"a": {"b": []}},
                "--allow_code",
                "os.system",
                touch,
                called,
                source,
                yaml.safe_dump(called),
            ]
        )

    def changed(self, content: Any) -> Any:
        """The content with up to three entries replaced, removed, renamed or added."""
        content = copy.deepcopy(content)
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            places = list(_places(content))
            if not places:
                return self.hostile()
            holder, key = self.random.choice(places)
            what = self.random.random()
            if what < 0.6:
                holder[key] = self.hostile()
            elif what < 0.75:
                del holder[key]
            elif isinstance(holder, dict):
                holder[f"{key}x" if what < 0.9 else "added"] = self.hostile() if what >= 0.9 else holder.pop(key)
            else:
                holder.append(self.hostile())
        return content

    def damaged(self, data: bytes) -> bytes:
        """The bytes with a few of them changed, removed or repeated."""
        changed = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            start = self.random.randrange(max(1, len(changed)))
            length = self.random.choice((1, 1, 1, 8, 64))
            what = self.random.random()
            if what < 0.6:
                for at in range(start, min(start + length, len(changed))):
                    changed[at] = self.random.randrange(256)
            elif what < 0.8:
                del changed[start : start + length]
            elif what < 0.9:
                changed[start:start] = changed[start : start + length]
            else:
                del changed[start:]
        return bytes(changed)

    def written(self, name: str, content: Any) -> Path:
        """A YAML file with a changed content, or with a right one whose bytes are damaged."""
        path = self.folder / name
        if self.random.random() < 0.75:
            path.write_bytes(yaml.safe_dump(self.changed(content), allow_unicode=True).encode())
        else:
            path.write_bytes(self.damaged(yaml.safe_dump(content).encode()))
        return path


def config(case: Case) -> list[str]:
    content = yaml.safe_load(case.random.choice(CONFIGS).read_text())
    if case.random.random() < 0.5:  # a complete one
        content = yaml.safe_load((case.run / "config.yaml").read_text())
    path = case.written("config.yaml", content)
    command = case.random.choice(("fit", "fit", "validate", "test"))
    where = ["--out", str(case.out)] if command == "fit" else []
    return [command, "--config", str(path), *TINY, *where]


def beside_a_checkpoint(case: Case) -> list[str]:
    run = case.folder / "run"
    shutil.copytree(case.run, run)
    case.written("run/config.yaml", yaml.safe_load((case.run / "config.yaml").read_text()))
    best = str(run / "checkpoints" / "best.ckpt")
    fit = ["fit", "--config", str(MAPPO), *TINY, "--out", str(case.out), "--data.opponent", best]
    replay = ["replay", "--ckpt_path", best, "--out", str(case.folder / "battle.html")]
    return case.random.choice((fit, replay))


def checkpoint(case: Case) -> list[str]:
    import torch

    run = case.folder / "run"
    shutil.copytree(case.run, run)
    path = run / "checkpoints" / case.random.choice(("best.ckpt", "last.ckpt"))
    if case.random.random() < 0.5:
        path.write_bytes(case.damaged(path.read_bytes()))
    else:
        torch.save(case.changed(torch.load(path, weights_only=True)), path)
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", str(path)]
    replay = ["replay", "--ckpt_path", str(path), "--out", str(case.folder / "battle.html")]
    return case.random.choice((["fit", *config], ["validate", *config], replay))


def scenario(case: Case) -> list[str]:
    path = case.written("own.yaml", yaml.safe_load(SCENARIO))
    fit = ["fit", "--config", str(MAPPO), *TINY, "--out", str(case.out)]
    return case.random.choice((["scenarios", str(path)], [*fit, "--data.scenario", str(path)]))


def study(case: Case) -> list[str]:
    folder = case.folder / "study"
    shutil.copytree(case.run.parent / "study", folder)
    path = case.random.choice([p for p in sorted(folder.rglob("*")) if p.suffix in (".yaml", ".json", ".csv")])
    if path.suffix == ".csv" or case.random.random() < 0.3:
        path.write_bytes(case.damaged(path.read_bytes()))
    else:
        path.write_text(yaml.safe_dump(case.changed(yaml.safe_load(path.read_text())), default_flow_style=True))
    return ["report", str(folder)]


def protocol(case: Case) -> list[str]:
    content = {"algorithms": [f"mappo:{MAPPO}"], "scenarios": ["3m"], "seeds": 1, "env_steps": 50}
    content |= {"overrides": ["data.num_envs=4"], "baseline": "mappo"}
    path = case.written("protocol.yaml", content)
    return ["compare", "--protocol", str(path), "--out", str(case.out), "--parallel", "1"]


KINDS: dict[str, Callable[[Case], list[str]]] = {
    "config": config,
    "config beside a checkpoint": beside_a_checkpoint,
    "checkpoint": checkpoint,
    "scenario": scenario,
    "study": study,
    "protocol": protocol,
}


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Where entries are: (mapping or list, key), at every depth."""
    found: list[tuple[Any, Any]] = []
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        found += [(content, key), *_places(value)]
    return found


def in_child(case: Case, log: Path) -> None:
    """Makes the case's file and runs its command, with the output in a file; does not return."""
    from cli import main

    os.setsid()
    os.environ["HOME"] = str(log.parent)
    with log.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        args = case.command()
        (case.folder / "command").write_text(shlex.join(args))
        os.chdir(case.folder)
        sys.argv = ["cli.py", *args]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            main(args)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = CRASHED
        file.flush()
    os._exit(code)


def outcome_of(case: Case, code: int | None, log: Path) -> tuple[str, str]:
    """What came of a case, in capitals if it should not have, and the line that tells most."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    told = [*errors, *reversed(lines), ""][0]
    if case.canary.exists():
        return "CODE RAN", told
    if code is None:
        return "TIME-OUT", told
    if code < 0:
        return f"SIGNAL {-code}", told
    if code == CRASHED or "Traceback (most recent call last)" in text:
        return "TRACEBACK", [*reversed(lines), ""][0]
    if code == 0:
        return "accepted", told
    if case.kind == "protocol" and code == 1 and "runs failed" in text:
        return "failed in one line", told
    if code not in (1, 2) or len(errors) != 1:
        return "NOT ONE LINE", told
    if code == 2 and any(path.name != ".lock" for path in case.out.rglob("*")):
        return "FOLDER LEFT BEHIND", told
    return ("refused in one line" if code == 2 else "failed in one line"), told


def prepared(folder: Path) -> Path:
    """A finished run and a study, to be damaged."""
    run = folder / "run"
    fit = [
        "fit",
        "--config",
        "configs/amal_paper.yaml",
        *TINY,
        "--model.world_model.buffer_size=500",
        "--out",
        str(run),
    ]
    fit += ["--model.auxiliaries.auxiliary_buffer_size=50", "--evaluation.every_n_episodes=4"]
    compare = ["compare", "--algorithms", "mappo", "--scenarios", "3m", "--seeds", "2", "--env_steps", "50"]
    compare += ["--out", str(folder / "study"), "--parallel", "1"]
    for args in (fit, compare):
        subprocess.run([sys.executable, "cli.py", *args], cwd=ROOT, check=True, capture_output=True)
    return run


class Pool:
    """Cases that run at the same time. They are forked: to import everything takes longer than a case."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, prepared(folder)
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self._running: list[tuple[Case, ForkProcess, float]] = []

    def start(self, number: int) -> None:
        case = Case(number, self.folder / f"case-{number}", self.run)
        process = multiprocessing.get_context("fork").Process(target=in_child, args=(case, self._log(case)))
        process.start()
        self._running.append((case, process, time.monotonic() + SECONDS))

    def wait(self, at_most: int) -> None:
        """Until no more than so many cases run."""
        while len(self._running) > at_most:
            time.sleep(0.01)
            for entry in list(self._running):
                case, process, deadline = entry
                if process.exitcode is not None or time.monotonic() > deadline:
                    self._running.remove(entry)
                    code = process.exitcode
                    if code is None:
                        os.killpg(process.pid or 0, signal.SIGKILL)
                    self._take_down(case, code)

    def _take_down(self, case: Case, code: int | None) -> None:
        outcome, told = outcome_of(case, code, self._log(case))
        self.counts[case.kind][outcome] += 1
        if outcome.isupper():
            print(f"{outcome}: case {case.seed} ({case.kind}): {told}", flush=True)
        else:
            shutil.rmtree(case.folder)
            self._log(case).unlink()

    def _log(self, case: Case) -> Path:
        return self.folder / f"case-{case.seed}.log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="these cases, by their numbers, instead")
    options = parser.parse_args()

    import amal.commands.fit  # noqa: F401  before anything is forked

    pool = Pool(Path(tempfile.mkdtemp(prefix="fuzz-")))
    deadline = time.monotonic() + 60.0 * options.minutes
    for number in options.only or itertools.count(options.seed * 1_000_000):
        if time.monotonic() > deadline:
            break
        pool.start(number)
        pool.wait(at_most=(os.cpu_count() or 1) - 1)
    pool.wait(at_most=0)
    total: Counter[str] = sum(pool.counts.values(), Counter())
    for kind, counter in [*pool.counts.items(), ("all", total)]:
        print(f"{kind:>28}: " + " · ".join(f"{counter[outcome]} {outcome}" for outcome in sorted(total)))
    failures = sum(count for outcome, count in total.items() if outcome.isupper())
    print(f"{total.total()} cases, {failures} failures; the files of what failed are in {pool.folder}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
