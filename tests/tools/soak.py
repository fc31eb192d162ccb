"""Long runs, to see that memory stays flat and nothing warns.

python tests/tools/soak.py random --steps 10000000                   random battles of every scenario, shared out evenly
python tests/tools/soak.py train --scenario 2s3z --steps 1000000     a training run by the command line
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BATTLES = 256
SAMPLES = 10  # of the memory, after equal shares of the steps
ALLOWED_GROWTH = 5.0  # MB, over the second half; in the first the arrays are touched for the first time


def resident_mb(process: str = "self") -> float:
    """Memory of a process that is in use now; Linux only."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def random_battles(steps: int) -> bool:
    """Plays random battles of every scenario; whether memory stayed flat."""
    from amal.battle import VectorBattle
    from amal.battle.scenario import scenario_names
    from amal.bench.simulator import choose_at_random

    warnings.simplefilter("error")
    names, played, growths = scenario_names(), 0, {}
    for name in names:
        battle = VectorBattle(name, BATTLES, seed=1)
        actions = np.zeros((BATTLES, battle.spec.n_agents), np.int64)
        state, samples = 1, []
        rounds = -(-steps // (len(names) * BATTLES * SAMPLES))
        for _ in range(SAMPLES):
            for _ in range(rounds):
                state = choose_at_random(battle.available_actions, actions, state)
                battle.step(actions)
            samples.append(resident_mb())
        played += SAMPLES * rounds * BATTLES
        first, half, last = samples[0], samples[SAMPLES // 2], samples[-1]
        growths[name] = last - half
        steps_here = SAMPLES * rounds * BATTLES
        print(f"{name:>16}  {steps_here:>10,} steps  {first:7.1f} MB, {half:7.1f} MB, {last:7.1f} MB", flush=True)
    largest = max(growths.values())
    print(f"{played:,} random steps on {len(names)} scenarios; largest growth over a second half {largest:.1f} MB")
    return largest <= ALLOWED_GROWTH


def training(scenario: str, steps: int, config: str) -> bool:
    """Trains by the command line; whether memory stayed flat over the second half and nothing warned."""
    from amal.study.grid.runs import last_row

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "cli.py", "fit", "--config", config, "--data.scenario", scenario]
        command += ["--data.env_steps", str(steps), "--out", str(run)]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            samples: list[tuple[float, float]] = []
            while process.poll() is None:
                time.sleep(1.0)
                done = last_row(run / "metrics.csv").get("env_steps", 0.0)
                if process.poll() is None and done >= (len(samples) + 1) * steps / SAMPLES:
                    samples.append((done, resident_mb(str(process.pid))))
                    print(f"{done:>12,.0f} steps  {samples[-1][1]:7.1f} MB", flush=True)
            log.seek(0)
            warned = [line for line in log if "warning" in line.lower()]
        print(f"exit code {process.returncode}; {len(warned)} warnings", *warned, sep="\n")
        later = [memory for done, memory in samples if done >= steps / 2]
        growth = later[-1] - later[0] if later else float("nan")
        print(f"growth over the second half {growth:.1f} MB")
        return process.returncode == 0 and not warned and growth <= ALLOWED_GROWTH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("random", "train"))
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--scenario", default="2s3z")
    parser.add_argument("--config", default="configs/mappo.yaml")
    options = parser.parse_args()
    is_flat = (
        random_battles(options.steps)
        if options.what == "random"
        else training(options.scenario, options.steps, options.config)
    )
    print("memory is flat" if is_flat else "MEMORY GREW OR SOMETHING WARNED")
    sys.exit(0 if is_flat else 1)


if __name__ == "__main__":
    main()
