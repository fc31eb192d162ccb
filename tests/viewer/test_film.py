"""What someone who opens a film would miss if it broke."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amal.battle.scenario import Scenario, load_scenario, place
from amal.viewer import film
from amal.viewer.appearance import TEAM, outline
from amal.viewer.film import FRAME_MS, FRAMES_PER_STEP, HEADER, HOLD_MS, MAX_FRAMES, Film, write_gif, write_mp4
from amal.viewer.recording import ALIVE, COOLDOWN, HP, SHIELD, TARGET, Recording, X
from tests.conftest import SMAC


def record(scenario: Scenario, steps: int, dead: str = "") -> Recording:
    """Allies walk right, all fire in the first step, one side dies in the second."""
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
    return Recording(scenario, units)


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
    """Pixels of that colour, give or take what a palette does to it."""
    return int((np.abs(frame.astype(int) - colour) <= 12).all(axis=-1).sum())


def test_plays_the_whole_battle_and_holds_the_end(tmp_path: Path) -> None:
    write_gif(record(load_scenario("3m"), 4), tmp_path / "battle.gif", "a title " * 20)
    frames, durations = read_frames(tmp_path / "battle.gif")
    assert sum(durations) == (4 * FRAMES_PER_STEP + 4) * FRAME_MS + HOLD_MS  # the start stands for four frames
    assert durations[-1] >= HOLD_MS
    assert all((before != after).any() for before, after in zip(frames, frames[1:], strict=False))


def test_dead_units_vanish(tmp_path: Path) -> None:
    write_gif(record(load_scenario("2m_vs_1z"), 4, dead="enemy"), tmp_path / "battle.gif")
    frames, _ = read_frames(tmp_path / "battle.gif")
    first, last = frames[0][HEADER:], frames[-1][HEADER:]
    ally, enemy = TEAM
    assert count(first, ally) > 100 and count(first, enemy) > 100
    assert count(last, ally) > 100 and count(last, enemy) == 0


def test_a_shot_is_a_line_from_the_attacker_to_its_target() -> None:
    scenario = load_scenario("3m")
    recording = record(scenario, 2)
    film = Film(recording, "")
    (attack,) = (attack for attack in recording.attacks if attack.attacker == 1)
    before, during = (np.asarray(film.frame(time))[HEADER:] for time in (attack.time - 0.01, attack.time))
    ends = recording.units[0, [1, attack.targets[0]], :2]
    x, y = film.camera(ends.mean(axis=0, keepdims=True))[0]  # halfway, where nobody stands
    spot = (slice(int(y) // 3 - 3, int(y) // 3 + 4), slice(int(x) // 3 - 3, int(x) // 3 + 4))
    assert during[spot].max() > before[spot].max() + 100


@pytest.mark.parametrize(("dead", "colour"), [("enemy", TEAM[0]), ("ally", TEAM[1]), ("", (255, 255, 255))])
def test_ends_with_the_outcome_in_the_winners_colour(dead: str, colour: tuple[int, int, int]) -> None:
    film = Film(record(load_scenario("3m"), 3, dead), "")
    middle = (slice(HEADER // 2, HEADER), slice(210, 350))
    playing, ended = (np.asarray(film.frame(time))[middle] for time in (2.9, 3.0))
    assert count(playing, (255, 255, 255)) > 40 and count(ended, colour) > 60


@pytest.mark.parametrize("name", SMAC)
def test_every_scenario_is_drawn_with_a_shape_for_each_type(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "FRAMES_PER_STEP", 1)  # enough here, and quicker
    units = load_scenario(name).units
    assert len({outline(unit).tobytes() for unit in units}) == len({unit.name for unit in units})
    write_gif(record(load_scenario(name), 1), tmp_path / "battle.gif")
    with Image.open(tmp_path / "battle.gif") as gif:
        assert 480 <= gif.width <= 640 and gif.height <= 640
        assert getattr(gif, "n_frames", 1) == 3


def test_a_unit_of_the_users_own_is_drawn() -> None:
    scenario = load_scenario("3m")
    goliath = replace(scenario.units[0], name="goliath", size=1.5)
    own = replace(scenario, groups=(replace(scenario.groups[0], units=(goliath,) * 3), scenario.groups[1]))
    field = np.asarray(Film(record(own, 1), "").frame(0.0))[HEADER:]
    assert count(field, TEAM[0]) > 2 * count(field, TEAM[1])  # twice the size, four times the area


def test_long_battles_get_fewer_frames_per_step() -> None:
    times = Film(record(load_scenario("3m"), 400), "").times()
    assert len(times) < 2 * MAX_FRAMES and times[-1] >= 400


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "battle.gif"
    path.write_bytes(b"old")
    whole = Film.frame
    calls = []

    def fail_at_last(self: Film, time: float) -> Image.Image:
        calls.append(time)
        if len(calls) > 20:  # the palette is made, and some of the film
            raise OSError("disk full")
        return whole(self, time)

    monkeypatch.setattr(Film, "frame", fail_at_last)
    with pytest.raises(OSError, match="disk full"):
        write_gif(record(load_scenario("3m"), 4), path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# --- MP4 ------------------------------------------------------------------------------------------------------------


def ffmpeg_that(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a script in ffmpeg's place."""
    (folder / "bin").mkdir()
    (folder / "bin" / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_ffmpeg_gets_the_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = 'while [ "$1" != -i ]; do shift; done; gif="$2"; for out; do :; done; cp "$gif" "$out"'
    ffmpeg_that(copy, tmp_path, monkeypatch)
    recording = record(load_scenario("3m"), 2)
    write_mp4(recording, tmp_path / "battle.mp4")
    write_gif(recording, tmp_path / "battle.gif")
    assert (tmp_path / "battle.mp4").read_bytes() == (tmp_path / "battle.gif").read_bytes()


def test_a_failing_ffmpeg_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg_that("echo first >&2; echo no encoder >&2; exit 1", tmp_path, monkeypatch)
    with pytest.raises(OSError, match="ffmpeg failed: no encoder"):
        write_mp4(record(load_scenario("3m"), 2), tmp_path / "battle.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
