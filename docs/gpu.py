"""Does a GPU help? The same gradients on both devices, and env-steps/s of short trainings on either.

Usage: python docs/gpu.py [--seconds 10] [--accelerators cpu gpu]. Takes some ten minutes on a machine with a GPU;
without one it does the processor's part. Every training is the shipped ``fit`` in a process of its own, stopped after
so many seconds; its speed is that after the first update. Shares of time are Lightning's SimpleProfiler's.
"""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Generator

from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.bench.training import CLI
from amal.rollout.collector import EpisodeRecorder
from amal.types import EpisodeBatch

SCENARIOS = ("2s3z", "27m_vs_30m")
BATTLES = (32, 256, 1024)
TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 5e-2}  # of a gradient's norm, relative
PARTS = {"playing": "train_dataloader_next", "update": "run_training_batch", "transfer": "batch_to_device"}


class Training(NamedTuple):
    """What is trained, and where."""

    config: str
    scenario: str
    battles: int
    accelerator: str
    precision: str = "32-true"
    strategy: str = "auto"


def trainings(accelerators: list[str]) -> list[Training]:
    """All that are timed: MAPPO over numbers of battles and precisions, the others with the fewest battles."""
    found = []
    for scenario, battles, accelerator in product(SCENARIOS, BATTLES, accelerators):
        precisions = ("32-true", "bf16-mixed") if accelerator == "gpu" else ("32-true",)
        found += [Training("mappo", scenario, battles, accelerator, precision) for precision in precisions]
    others = product(("mappo_gru", "qmix", "amal"), SCENARIOS, accelerators)
    found += [Training(config, scenario, BATTLES[0], accelerator) for config, scenario, accelerator in others]
    return [*found, Training("mappo", SCENARIOS[0], BATTLES[0], accelerators[-1], strategy="ddp")]


def measure(training: Training, seconds: int) -> dict[str, object]:
    """A row of the table."""
    row: dict[str, object] = training._asdict()
    with tempfile.TemporaryDirectory(prefix="amal-gpu-") as folder:
        out = Path(folder) / "run"
        arguments = {
            "config": training.config,
            "out": out,
            "data.scenario": training.scenario,
            "data.env_steps": 10**9,
            "data.num_envs": training.battles,
            "data.episodes_per_update": training.battles,
            "evaluation.every_n_episodes": 0,
            "trainer.accelerator": training.accelerator,
            "trainer.devices": 1,
            "trainer.precision": training.precision,
            "trainer.strategy": training.strategy,
            "trainer.max_time": f"00:00:{seconds // 60:02}:{seconds % 60:02}",
            "trainer.profiler": "simple",
        }
        command = [sys.executable, str(CLI), "fit", *(f"--{name}={value}" for name, value in arguments.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (out / "metrics.csv").exists():
            return row | {"env-steps/s": (done.stderr.strip().splitlines() or ["no update in time"])[-1]}
        rows = pd.read_csv(out / "metrics.csv")
    steps, times = (rows[name].iloc[-1] - rows[name].iloc[0] for name in ("env_steps", "wall_seconds"))
    row |= {"env-steps/s": f"{steps / times:,.0f}" if times > 0 else "one update only", "updates": len(rows)}
    return row | {part: share(done.stdout + done.stderr, action) for part, action in PARTS.items()}


def share(profile: str, action: str) -> str:
    """An action's share of the whole run, start included, of SimpleProfiler's table."""
    found = re.search(rf"^\|[^|\n]*{action}[^|\n]*\|(?:[^|\n]*\|){{3}}\s*([\d.e+-]+)", profile, re.MULTILINE)
    return f"{float(found[1]):.0f} %" if found else ""


def losses_and_gradients(module: MAPPO, batch: EpisodeBatch, device: str, precision: str) -> dict[str, float]:
    """Of the policy and the critic on a whole batch at once, and the sizes of their gradients."""
    module, batch = copy.deepcopy(module).to(device), batch.to(device)
    found = {}
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
        transitions, _ = module.estimate_advantages(batch)
        (everything,) = module.minibatches(batch, transitions, 1, 1)
        lived = transitions[everything.steps]
        logits = module.policy.at_rows(lived.obs, everything.rows, everything.batch_sizes)
        policy_loss, _ = module.policy_loss(logits, lived.at_rows(everything.rows))
        value_loss = module.critic_loss(transitions, everything)
    for name, loss, network in (("policy", policy_loss, module.policy), ("value", value_loss, module.critic)):
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        norm = torch.stack([gradient.float().norm() for gradient in gradients if gradient is not None]).norm()
        found |= {f"{name} loss": float(loss.detach()), f"{name} gradient": float(norm)}
    return found


def compare_losses(devices: list[str]) -> pd.DataFrame:
    """A row per device and precision, the first the one that all others must be close to."""
    battle = VectorBattle(load_scenario("2s3z"), 32, seed=0, auto_reset=False)
    torch.manual_seed(0)
    module = MAPPO(*(getattr(battle.spec, name) for name in ("n_agents", "n_actions", "obs_dim", "state_dim")))
    batch = EpisodeRecorder(battle, 32).play(module, 32, Generator().manual_seed(0))
    rows: list[dict[str, object]] = []
    reference = losses_and_gradients(module, batch, "cpu", "32-true")
    for device, precision in product(devices, TOLERANCE):
        found = losses_and_gradients(module, batch, device, precision)
        apart = max(abs(found[name] / reference[name] - 1) for name in found if "gradient" in name)
        verdict = "equal" if apart < TOLERANCE[precision] else f"APART by {apart:.1%}"
        rows.append({"device": device, "precision": precision, **found, "": verdict})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each training")
    available = ["cpu", "gpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--accelerators", nargs="+", choices=("cpu", "gpu"), default=available)
    given = parser.parse_args()
    kinds = [{"cpu": "cpu", "gpu": "cuda"}[name] for name in given.accelerators]
    print(compare_losses(kinds).to_string(index=False, float_format="{:.6g}".format), flush=True)
    table = []
    for each in trainings(given.accelerators):
        table.append(measure(each, given.seconds))
        print(*(f"{name} {value}" for name, value in table[-1].items()), sep=" · ", flush=True)
    print(pd.DataFrame(table).fillna("").to_string(index=False))
