"""Where the time of training goes, of any algorithm and from any folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amal.battle.scenario import load_scenario

PARTS = ("battles", "acting", "compiled", "recording", "update", "rest")

OWN = "tests.algorithms.own_algorithm"


@pytest.fixture
def q_learning(tmp_path: Path, cli: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> str:
    """An algorithm of others, in a folder without configs/, which is the working directory."""
    config = "model: {class_path: tests.algorithms.own_algorithm.QLearning}\ndata: {episodes_per_update: 8}\n"
    (tmp_path / "mine.yaml").write_text(config)
    monkeypatch.chdir(tmp_path)
    return "q_learning:mine.yaml"


def test_time_goes_to_the_parts_of_any_algorithm(
    cli: Callable[..., None], q_learning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = ("--training_scenario", "3m", "--env_steps", "3000", "--out", "bench")
    cli(
        "bench",
        "--scenarios",
        "--algorithms",
        "mappo",
        q_learning,
        "--allow_code",
        "tests.algorithms.own_algorithm",
        *measured,
    )
    mappo, other = json.loads(Path("bench/bench.json").read_text())["training"]
    assert (mappo["algorithm"], other["algorithm"]) == ("mappo", "q_learning")
    for run in (mappo, other):
        parts = [run[part] for part in PARTS]
        assert sum(parts) == pytest.approx(1)
        assert 0 < run["gflops"] == pytest.approx(run["mflop_per_env_step"] * run["env_steps_per_second"] / 1e3)
        unused = ("battles", "acting") if run is mappo else ("compiled",)
        assert all((run[part] == 0) == (part in unused) for part in PARTS) and min(parts) == 0
    spec = load_scenario("3m").spec()
    inputs, outputs = spec.obs_dim + spec.state_dim + 2 * spec.n_agents, spec.n_actions + 1
    weights = (inputs + 2 * 256 + outputs) * 256  # of policy and critic
    passes = 4 * 3  # epochs of forward and two backward; the dead and the first gradient cost nothing
    assert 0.5 < mappo["mflop_per_env_step"] / (2 * weights * spec.n_agents * passes / 1e6) < 1
    told = capsys.readouterr().out
    assert "env-steps/s" in told and "q_learning" in told


def test_what_stops_training_is_told_in_its_own_words(
    cli: Callable[..., None], q_learning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("bench", "--scenarios", "--algorithms", q_learning, "--training_scenario", "3m")
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert told.startswith(
        "error: q_learning on 3m: tests.algorithms.own_algorithm.QLearning is code from outside the project"
    )
    assert told.endswith(f"--allow_code {OWN}\n")
