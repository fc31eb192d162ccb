"""How fast an algorithm trains, and where its time goes: the shipped ``fit`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amal.battle.scenario import name_of

CLI = Path(__file__).resolve().parents[2] / "cli.py"
MEASURED = ("--trainer.profiler=simple", "--trainer.callbacks+=amal.bench.callback.Bench")
RESULT = "bench.json"
PARTS = ("battles", "acting", "compiled", "update")


class BenchError(RuntimeError):
    """A run that did not end as it should; the message is one line."""


@dataclass(frozen=True)
class TrainingSpeed:
    """How an algorithm trains on a scenario as shipped; shares are of the time of whole iterations.

    Attributes:
        startup: seconds from the command to the end of the first update.
        battles: share of the simulator, where an actor is asked step by step.
        acting: share of the choice of actions in such rollouts.
        compiled: share of rollouts that are one compiled call, battles and acting together.
        recording: share of the rest of the rollouts.
        update: share of the updates.
        rest: share of evaluations, checkpoints and logs.
        mflop_per_env_step: floating-point operations of torch's matrix products in a whole iteration, so without those
            of a compiled rollout.
        gflops: as many over the time of the iteration.
        product_gflops: of one product of [4096, 256] and [256, 256] matrices, measured in the same process.
        memory_mb: largest resident set.
    """

    algorithm: str
    scenario: str
    threads: int
    env_steps_per_second: float
    startup: float
    battles: float
    acting: float
    compiled: float
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


def measure_training(
    algorithm: str,
    configs: Sequence[Path],
    scenario: str,
    env_steps: int,
    allowed_code: Sequence[str] = (),
    threads: int | None = None,
) -> TrainingSpeed:
    """Trains once in a folder that is deleted afterwards. Raises BenchError.

    Args:
        algorithm: what it is called.
        configs: of it, later over earlier.
        scenario: name or file.
        env_steps: budget.
        allowed_code: code of others that the configs may name.
        threads: of torch and numba; by default as many as a ``fit`` would take.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with tempfile.TemporaryDirectory(prefix="amal-bench-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, str(CLI), "fit", *(f"--config={config}" for config in configs), f"--out={out}"]
        command += [f"--data.scenario={scenario}", f"--data.env_steps={env_steps}", *MEASURED]
        command += [f"--allow_code={name}" for name in allowed_code]
        start = time.time()
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        try:
            measured = json.loads((out / RESULT).read_text())
        except OSError:
            too_short = "the run was too short; try more --env_steps"
            said = process.stderr.strip().splitlines()[-1] if process.returncode else too_short
            raise BenchError(f"{algorithm} on {scenario}: {said.removeprefix('error: ')}") from None
    return _speed(algorithm, scenario, measured, start)


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
        recording=rollout - share["battles"] - share["acting"] - share["compiled"],
        rest=1.0 - rollout - share["update"],
        mflop_per_env_step=measured["product_flops_per_env_step"] / 1e6,
        gflops=measured["product_flops_per_env_step"] * speed / 1e9,
        product_gflops=measured["product_flops_per_second"] / 1e9,
        memory_mb=measured["peak_memory_mb"],
    )
