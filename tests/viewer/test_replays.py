"""What someone who opens a replay would miss if it broke."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amal.battle.scenario import Scenario, load_scenario, place
from amal.viewer import replays
from amal.viewer.replays import FRAME_MS, FRAMES_PER_STEP, HEADER, HOLD_MS, TEAM, render_gif
from amal.viewer.strikes import ALIVE, COOLDOWN, HP, SHIELD, TARGET, X
from tests.conftest import SMAC


def record(scenario: Scenario, steps: int, dead: str = "") -> np.ndarray:
    """A recording [steps+1, U, 9]: allies walk right, all fire in the first step, one side dies in the second."""
    sides = np.array(scenario.sides)
    units = np.zeros((steps + 1, len(sides), 9))
    units[:, :, :2] = place(scenario)
    units[:, sides == "ally", X] += np.arange(steps + 1)[:, None]
    units[:, :, HP] = [unit.hp for unit in scenario.units]
    units[:, :, SHIELD] = [unit.shield for unit in scenario.units]
    units[:, :, ALIVE] = 1
    units[:, :, TARGET] = np.where(sides == "ally", (sides == "enemy").argmax(), (sides == "ally").argmax())
    units[1, :, COOLDOWN] = [unit.cooldown for unit in scenario.units]
    units[2:, sides == dead, HP : SHIELD + 1] = 0
    units[2:, sides == dead, ALIVE] = 0
    return units


def read_frames(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Frames [height, width, 3] and how long each stands, in ms."""
    with Image.open(path) as gif:
        assert gif.format == "GIF" and gif.info["loop"] == 0
        frames, durations = [], []
        for i in range(getattr(gif, "n_frames", 1)):
            gif.seek(i)
            durations.append(gif.info["duration"])
            frames.append(np.asarray(gif.convert("RGB")))
    return frames, durations


def count(frame: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of that colour on the field, give or take what a palette does to it."""
    return int((np.abs(frame[HEADER:].astype(int) - colour) <= 8).all(axis=-1).sum())


def test_plays_the_whole_battle_smoothly_and_holds_the_end(tmp_path: Path) -> None:
    render_gif(load_scenario("3m"), record(load_scenario("3m"), 4), tmp_path / "battle.gif", "a title " * 20)
    frames, durations = read_frames(tmp_path / "battle.gif")
    drawn = (4 + 1) * FRAMES_PER_STEP + 1  # one step's time for the verdict to fade in
    assert len(frames) == drawn and sum(durations) == 4 * FRAME_MS + (drawn - 2) * FRAME_MS + HOLD_MS
    assert durations[-1] == HOLD_MS
    assert all((before != after).any() for before, after in zip(frames, frames[1:], strict=False))


def test_dead_units_vanish(tmp_path: Path) -> None:
    scenario = load_scenario("2m_vs_1z")
    render_gif(scenario, record(scenario, 4, dead="enemy"), tmp_path / "battle.gif")
    frames, _ = read_frames(tmp_path / "battle.gif")
    ally, enemy = TEAM
    assert count(frames[0], ally) > 100 and count(frames[0], enemy) > 100
    assert count(frames[-1], ally) > 100 and count(frames[-1], enemy) == 0


@pytest.mark.parametrize(("dead", "colour"), [("enemy", TEAM[0]), ("ally", TEAM[1]), ("", (255, 255, 255))])
def test_ends_with_the_outcome(tmp_path: Path, dead: str, colour: tuple[int, int, int]) -> None:
    scenario = load_scenario("3m")
    render_gif(scenario, record(scenario, 3, dead), tmp_path / "battle.gif")
    frames, _ = read_frames(tmp_path / "battle.gif")
    assert count(frames[-1], colour) > count(frames[0], colour) + 300  # the word is large


@pytest.mark.parametrize("name", SMAC)
def test_every_scenario_can_be_drawn(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario(name)
    monkeypatch.setattr(replays, "FRAMES_PER_STEP", 2)  # enough here, and quicker
    render_gif(scenario, record(scenario, 1), tmp_path / "battle.gif")
    with Image.open(tmp_path / "battle.gif") as gif:
        assert 480 <= gif.width <= 640 and gif.height <= 640
        assert getattr(gif, "n_frames", 1) == 5


def test_a_unit_of_the_users_own_is_drawn(tmp_path: Path) -> None:
    scenario = load_scenario("3m")
    goliath = replace(scenario.units[0], name="goliath", size=1.5)
    own = replace(scenario, groups=(replace(scenario.groups[0], units=(goliath,) * 3), scenario.groups[1]))
    render_gif(own, record(own, 1), tmp_path / "battle.gif")
    frames, _ = read_frames(tmp_path / "battle.gif")
    assert count(frames[0], TEAM[0]) > 2 * count(frames[0], TEAM[1])  # twice the size, four times the area


def test_long_battles_get_fewer_frames_per_step() -> None:
    scenario = load_scenario("3m")
    times = replays.Replay(scenario, record(scenario, 400), "").times()
    assert len(times) < 2 * replays.MAX_FRAMES and times[-1] >= 400


def test_a_failing_render_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, path = load_scenario("3m"), tmp_path / "battle.gif"
    path.write_bytes(b"old")
    whole = replays.Replay.frame
    calls = []

    def fail_at_last(self: replays.Replay, time: float) -> Image.Image:
        calls.append(time)
        if len(calls) > 20:  # the palette is made, and some of the film
            raise OSError("disk full")
        return whole(self, time)

    monkeypatch.setattr(replays.Replay, "frame", fail_at_last)
    with pytest.raises(OSError, match="disk full"):
        render_gif(scenario, record(scenario, 3), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_recording_of_another_scenario_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8m: expected a recording"):
        render_gif(load_scenario("8m"), record(load_scenario("3m"), 2), tmp_path / "battle.gif")
