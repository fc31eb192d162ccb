"""How much faster training is with compiled rollouts: ``fit`` as shipped, in turns with the same algorithm when it is
asked step by step. Usage, on an idle machine: python docs/rollout_speed.py [--scenario 2s3z] [--turns 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amal.algorithms.mappo import MAPPO  # noqa: E402
from amal.bench.training import TrainingSpeed, measure_training  # noqa: E402

ASKED = "model: {class_path: docs.rollout_speed.AskedStepByStep}\n"


class AskedStepByStep(MAPPO):
    """MAPPO with an ``act`` of its own, which no compiled rollout can know."""

    def act(self, *arguments: Any) -> Any:
        return super().act(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", default="2s3z")
    parser.add_argument("--env_steps", type=int, default=20_000, help="of each training (default %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, help="as many as a fit would take by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "asked.yaml"
        asked.write_text(ASKED)
        configs = {"asked step by step": asked, "compiled": ROOT / "configs" / "mappo.yaml"}
        turns = [
            {name: measure(name, config, options) for name, config in configs.items()} for _ in range(options.turns)
        ]
    for name in configs:
        speeds = [turn[name] for turn in turns]
        playing = statistics.median(s.battles + s.acting + s.compiled + s.recording for s in speeds)
        speed = statistics.median(s.env_steps_per_second for s in speeds)
        print(f"{name}: {speed:,.0f} env-steps/s, {playing:.0%} of the time in rollouts")
    ratios = [turn["compiled"].env_steps_per_second / turn["asked step by step"].env_steps_per_second for turn in turns]
    print("compiled / asked, turn by turn: " + " ".join(f"{ratio:.2f}" for ratio in ratios))
    print(f"median {statistics.median(ratios):.2f}")


def measure(name: str, config: Path, options: argparse.Namespace) -> TrainingSpeed:
    return measure_training(
        name, [config], options.scenario, options.env_steps, ["docs.rollout_speed"], options.threads
    )


if __name__ == "__main__":
    main()
