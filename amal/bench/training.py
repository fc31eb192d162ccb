"""How fast an algorithm trains, and where its time goes: the shipped ``fit`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amal.battle.scenario import name_of

STOPWATCH = "amal.bench.stopwatch.Stopwatch"
RESULT = "bench.json"
PARTS = ("battles", "acting", "update")


class BenchError(RuntimeError):
    """A run that did not end as it should; the message is one line."""


@dataclass(frozen=True)
class TrainingSpeed:
    """How an algorithm trains on a scenario as shipped; shares are of the time of whole iterations.

    Attributes:
        startup: seconds from the command to the end of the first update.
        battles: share of the simulator.
        acting: share of the policy's choices in rollouts.
        recording: share of the rest of the rollouts.
        update: share of the updates.
        rest: share of evaluations, checkpoints and logs.
        mflop_per_env_step: floating-point operations of the matrix products of a whole iteration.
        gflops: as many over the time of the iteration.
        product_gflops: of a product of matrices of a minibatch's size, measured in the same process.
        memory_mb: largest resident set.
    """

    algorithm: str
    scenario: str
    threads: int
    env_steps_per_second: float
    startup: float
    battles: float
    acting: float
    recording: float
    update: float
    rest: float
    mflop_per_env_step: float
    gflops: float
    product_gflops: float
    memory_mb: float

    @property
    def product_share(self) -> float:
        """Share of the time that the matrix products alone would take at the speed measured for one."""
        return self.gflops / self.product_gflops

    def record(self) -> dict[str, float | str]:
        return {**asdict(self), "product_share": self.product_share}


def measure_training(config: Path, scenario: str, env_steps: int, threads: int | None = None) -> TrainingSpeed:
    """Trains once in a folder that is deleted afterwards. Raises BenchError."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory(prefix="amal-bench-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "cli.py", "fit", "--config", str(config), "--out", str(out)]
        command += [f"--data.scenario={scenario}", f"--data.env_steps={env_steps}", f"--trainer.callbacks+={STOPWATCH}"]
        start = time.time()
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        try:
            measured = json.loads((out / RESULT).read_text())
        except OSError:
            too_short = "the run was too short; try more --env_steps"
            said = process.stderr.strip().splitlines()[-1] if process.returncode else too_short
            raise BenchError(f"{config} on {scenario}: {said}") from None
    return _speed(config.stem, scenario, measured, start)


def _speed(algorithm: str, scenario: str, measured: dict[str, Any], start: float) -> TrainingSpeed:
    parts, seconds = measured["seconds_of_parts"], measured["seconds"]
    share = {name: parts[name] / seconds for name in PARTS}
    rollout = parts["rollout"] / seconds
    speed = measured["env_steps_per_second"]
    return TrainingSpeed(
        algorithm=algorithm,
        scenario=name_of(scenario),
        threads=measured["threads"],
        env_steps_per_second=speed,
        startup=measured["first_update"] - start,
        **share,
        recording=rollout - share["battles"] - share["acting"],
        rest=1.0 - rollout - share["update"],
        mflop_per_env_step=measured["product_flops_per_env_step"] / 1e6,
        gflops=measured["product_flops_per_env_step"] * speed / 1e9,
        product_gflops=measured["product_flops_per_second"] / 1e9,
        memory_mb=measured["peak_memory_mb"],
    )
