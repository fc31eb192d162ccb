"""Compares amal's speed with JaxMARL's, side by side in one run on all cores.

Two comparisons: random battles on the simulator against JaxMARL's SMAX, and training of a recurrent policy against
a figure recorded for JaxMARL's recurrent MAPPO, because no package on PyPI holds that training script.

Usage: python docs/performance_peers.py [--scenarios NAME ...] [--rounds N] [--seconds S] [--folder FOLDER]

SMAX is compiled for one XLA device, as JaxMARL's users have it, and again for as many devices as there are cores.
The recurrent policy trains with the peer's settings: 128 battles at a time and about 128 steps of each per update.

The peer runs in a Python environment of its own, FOLDER/venv, made on first use with PEER_PACKAGES from PyPI
(tried with Python 3.11). FOLDER also gets the peer's compiled programs, its log and the figures, figures.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEER_PACKAGES = ["jaxmarl==0.2.0", "jax==0.10.2", "jaxlib==0.10.2", "flax==0.12.8", "chex==0.1.92", "gymnax==1.0.1"]
SERVE = "--serve-peer"  # how this file calls itself in the peer's Python
BATTLES = 512
BLOCK_STEPS = 32  # that the peer plays in one compiled call
PEER_SETTINGS = ["--data.num_envs=128", "--data.episodes_per_update=360"]  # of 45 steps each, about 128 × 128
RECORDED_MAPPO = 1990  # env-steps/s of JaxMARL's recurrent MAPPO (128 environments, 128 steps) on another such machine


@dataclass
class Comparison:
    """Env-steps/s of ours and of the peer."""

    what: str
    ours: float
    peer: float

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


def smax_blocks(scenario: str) -> Iterator[None]:
    """Plays BATTLES random SMAX battles for ever, BLOCK_STEPS steps of each until every yield.

    The battles are shared out among as many XLA devices as there are cores. Observations, the world state, available
    actions and rewards are carried along, so that the compiler cannot leave them out.
    """
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]
    import jaxmarl  # type: ignore[import-not-found]
    from jaxmarl.environments.smax import map_name_to_scenario  # type: ignore[import-not-found]

    env = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario(scenario))

    def random_actions(key: Any, available: dict[str, Any]) -> dict[str, Any]:
        so_far = jnp.cumsum(jnp.stack([available[agent] for agent in env.agents]), axis=-1, dtype=jnp.int32)  # [N, A]
        chosen = jnp.floor(jax.random.uniform(key, (len(env.agents),)) * so_far[:, -1])
        actions = jnp.argmax(so_far > chosen[:, None], axis=-1)
        return {agent: actions[i] for i, agent in enumerate(env.agents)}

    def start(key: Any) -> tuple[Any, ...]:
        key, reset_key = jax.random.split(key)
        obs, state = env.reset(reset_key)
        return key, state, obs, env.get_avail_actions(state), {agent: jnp.float32(0) for agent in env.agents}

    def step(views: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        key, state, _obs, available, _rewards = views
        key, action_key, step_key = jax.random.split(key, 3)
        obs, state, rewards, _over, _info = env.step(step_key, state, random_actions(action_key, available))
        return (key, state, obs, env.get_avail_actions(state), rewards), None

    def play(views: tuple[Any, ...]) -> tuple[Any, ...]:
        return jax.lax.scan(step, views, None, length=BLOCK_STEPS)[0]

    devices = jax.local_device_count()
    keys = jax.random.split(jax.random.PRNGKey(0), BATTLES).reshape(devices, BATTLES // devices, -1)
    views = jax.pmap(jax.vmap(start))(keys)
    play_all = jax.pmap(jax.vmap(play))
    while True:
        views = jax.block_until_ready(play_all(views))
        yield


def serve_peer() -> None:
    """In the peer's Python: answers every line "SCENARIO SECONDS" with the speeds of that many seconds' blocks."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the package, or what it starts, prints when it is imported
    players: dict[str, Iterator[None]] = {}
    for line in sys.stdin:
        scenario, seconds = line.split()
        if scenario not in players:
            players[scenario] = smax_blocks(scenario)
            next(players[scenario])  # compiles
        speeds, end = [], time.perf_counter() + float(seconds)
        while time.perf_counter() < end:
            start = time.perf_counter()
            next(players[scenario])
            speeds.append(BATTLES * BLOCK_STEPS / (time.perf_counter() - start))
        print(json.dumps(speeds), file=replies, flush=True)


class Peer:
    """The peer's process. It does nothing between two requests."""

    def __init__(self, folder: Path, devices: int) -> None:
        self._log = folder / f"peer_{devices}.log"
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python_of(folder / "venv"), __file__, SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )

    def env_steps_per_second(self, scenario: str, seconds: float) -> list[float]:
        """Speeds of blocks; the scenario's first request also compiles, which is not counted."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{scenario} {seconds}\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"the peer has stopped at scenario {scenario}; its last words are in {self._log}")
        speeds: list[float] = json.loads(reply)
        return speeds

    def stop(self) -> None:
        self._process.communicate()


def device_counts() -> list[int]:
    """How many XLA devices BATTLES are shared out among: one, and a core each, if that comes out even."""
    cores = os.cpu_count() or 1
    return [1, cores] if cores > 1 and BATTLES % cores == 0 else [1]


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


def install_peer(environment: Path) -> None:
    """Makes the peer's Python environment unless its packages are there."""
    installed = environment / "peer_packages"
    if installed.exists() and installed.read_text().split() == PEER_PACKAGES:
        return
    print(f"installing {PEER_PACKAGES[0]} into {environment} ...", flush=True)
    venv.create(environment, clear=True, with_pip=True)
    subprocess.run([python_of(environment), "-m", "pip", "install", "-qq", *PEER_PACKAGES], check=True)
    installed.write_text("\n".join(PEER_PACKAGES))


def compare_simulators(peers: dict[int, Peer], scenario: str, rounds: int, seconds: float) -> list[Comparison]:
    """Medians over slices of ours and of each peer, by its number of devices; all take turns."""
    from amal.bench.simulator import env_steps_per_second

    theirs: dict[int, list[float]] = {devices: [] for devices in peers}
    ours: list[float] = []
    for peer in peers.values():
        peer.env_steps_per_second(scenario, 0)
    for _ in range(rounds):
        for devices, peer in peers.items():
            theirs[devices] += peer.env_steps_per_second(scenario, seconds)
        ours += env_steps_per_second(scenario, BATTLES, seconds)
    return [
        Comparison(
            f"simulator, {scenario} ({devices} XLA device{'s' * (devices > 1)})",
            statistics.median(ours),
            statistics.median(speeds),
        )
        for devices, speeds in theirs.items()
    ]


def compare_recurrent_training(scenario: str, env_steps: int) -> Comparison:
    """A whole run of ours, evaluations included, with the recorded figure."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "cli.py", "fit", "--config=configs/mappo_gru.yaml", f"--out={run}"]
        command += [f"--data.scenario={scenario}", f"--data.env_steps={env_steps}", *PEER_SETTINGS]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        ours = json.loads((run / "run.json").read_text())["totals"]["env_steps_per_second"]
    return Comparison(f"recurrent MAPPO, {scenario} (peer: recorded, not run)", ours, RECORDED_MAPPO)


def keep(comparisons: list[Comparison], path: Path) -> None:
    from amal.runtime.atomic import replacing

    rows = [{**asdict(row), "ratio": row.ratio} for row in comparisons]
    with replacing(path) as part:
        part.write_text(json.dumps({"cores": os.cpu_count(), "peer": PEER_PACKAGES, "rows": rows}, indent=2) + "\n")


def show(comparisons: list[Comparison]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Env-steps/s on {os.cpu_count()} cores", title_justify="left", box=SIMPLE)
    for column in ("", "amal", "JaxMARL", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for row in comparisons:
        table.add_row(row.what, f"{row.ours:,.0f}", f"{row.peer:,.0f}", f"{row.ratio:.1f}")
    Console().print(table)


def main(args: list[str]) -> None:
    from amal.battle.scenario import load_scenario
    from amal.commands.arguments import OneLineParser, fail
    from amal.runtime.argument_checks import check_at_least

    parser = OneLineParser(prog="python docs/performance_peers.py", description="Compare speed with JaxMARL's.")
    parser.add_argument("--scenarios", nargs="+", default=["3m", "2s3z", "3s5z"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each simulator (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn (default %(default)s)")
    parser.add_argument("--env_steps", type=int, default=60_000, help="of recurrent training (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "peers", help="default %(default)s")
    options = parser.parse_args(args)
    folder = options.folder.resolve()
    try:
        check_at_least(1, rounds=options.rounds, seconds=options.seconds, env_steps=options.env_steps)
        for name in options.scenarios:
            load_scenario(name)
        folder.mkdir(parents=True, exist_ok=True)
        install_peer(folder / "venv")
        rows: list[Comparison] = []
        peers = {devices: Peer(folder, devices) for devices in device_counts()}
        try:
            for name in options.scenarios:
                rows += compare_simulators(peers, name, options.rounds, options.seconds)
                keep(rows, folder / "figures.json")  # at once: the rest takes minutes
        finally:
            for peer in peers.values():
                peer.stop()
        for name in options.scenarios:
            rows.append(compare_recurrent_training(name, options.env_steps))
            keep(rows, folder / "figures.json")
    except (subprocess.CalledProcessError, RuntimeError, ValueError, OSError) as error:
        fail(str(error))
    show(rows)


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve_peer()
    else:
        main(sys.argv[1:])
