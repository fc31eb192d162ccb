"""A recorded battle as a GIF, or as an MP4 where ffmpeg is installed. Times count steps."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from amal.runtime.atomic import replacing
from amal.viewer import appearance as look
from amal.viewer.appearance import TEAM, TEAM_DARK, TEAM_LIGHT, WIDTH
from amal.viewer.field import SUPERSAMPLING, aim_camera, draw_field
from amal.viewer.recording import HP, SHIELD, Attack, Recording

FRAMES_PER_STEP = 4
FRAME_MS = 100  # 1.25 times the speed of the battle
MAX_FRAMES = 600  # longer battles get fewer frames per step, so that the file stays small enough to send
HOLD_MS = 2000  # the end
ATTACK_STEPS = 0.5  # how long an attack is shown
HEADER = 58


def has_ffmpeg() -> bool:
    return shutil.which("ffmpeg") is not None


def write_gif(recording: Recording, path: Path, title: str = "") -> None:
    """Draw the battle; an old file stays if anything fails."""
    film = Film(recording, title)
    times = film.times()
    # one palette for all frames, else the colours flicker
    sample = np.concatenate([np.asarray(film.frame(time)) for time in times[:: -(-len(times) // 9)] + times[-1:]])
    palette = Image.fromarray(sample).quantize(128, Image.Quantize.FASTOCTREE)
    frames = (film.frame(time).quantize(palette=palette, dither=Image.Dither.NONE) for time in times)
    durations = [4 * FRAME_MS] + [FRAME_MS] * (len(times) - 2) + [HOLD_MS]
    with replacing(path) as part:
        next(frames).save(part, "GIF", save_all=True, append_images=frames, duration=durations, loop=0)


def write_mp4(recording: Recording, path: Path, title: str = "") -> None:
    """The same as an MP4. OSError if ffmpeg fails."""
    for_every_player = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder, replacing(path) as part:
        gif = Path(folder) / "battle.gif"
        write_gif(recording, gif, title)
        command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(gif), *for_every_player, str(part)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise OSError(f"ffmpeg failed: {said[-1]}")


class Film:
    """A battle that can be drawn at any time."""

    def __init__(self, recording: Recording, title: str) -> None:
        self.recording = recording
        self.camera = aim_camera(recording.units)
        self.field = draw_field(recording.scenario.ground, self.camera)
        _draw_legend(self.field, recording)
        self.header = _draw_header(recording.scenario.name, title)

    def times(self) -> list[float]:
        """When to draw a frame: from the start until the last attack has faded."""
        steps = self.recording.steps
        per_step = min(max(MAX_FRAMES // steps, 1), FRAMES_PER_STEP)
        return [i / per_step for i in range(steps * per_step + 2)]

    def frame(self, time: float) -> Image.Image:
        """The picture at a time, RGB."""
        recording, t = self.recording, min(int(time), self.recording.steps - 1)
        before, after = recording.units[t : t + 2]
        units = before + (after - before) * min(time - t, 1.0)  # [U, 9]
        living: list[int] = np.flatnonzero(time < recording.deaths).tolist()
        picture = self.field.copy()
        draw = ImageDraw.Draw(picture, "RGBA")
        for i in np.flatnonzero(time >= recording.deaths).tolist():
            self._draw_cross(draw, i, units[i, :2])
        for i in sorted(living, key=lambda i: (recording.types[i].plane == "air", -units[i, 1])):
            self._draw_unit(draw, i, units[i, :2], recording.headings[t + 1, i])
        for attack in recording.attacks:
            if attack.time <= time < attack.time + ATTACK_STEPS:
                self._draw_attack(draw, attack, units[:, :2])
        for i in living:
            self._draw_bars(draw, i, units[i])
        whole = Image.new("RGB", (WIDTH, HEADER + picture.height // SUPERSAMPLING))
        whole.paste(self.header)
        whole.paste(picture.reduce(SUPERSAMPLING), (0, HEADER))
        self._draw_score(ImageDraw.Draw(whole), time, units, living)
        return whole

    def _draw_cross(self, draw: ImageDraw.ImageDraw, i: int, place: np.ndarray) -> None:
        """Where a unit died."""
        colour = look.mix(TEAM[self.recording.teams[i]], look.GROUND_COLOUR, 0.5)
        arm = self.recording.types[i].radius / 2
        for slope in (1, -1):
            ends = place + np.array([(-arm, -arm * slope), (arm, arm * slope)])
            draw.line(self.camera(ends), colour, round(0.1 * self.camera.scale))

    def _draw_unit(self, draw: ImageDraw.ImageDraw, i: int, place: np.ndarray, heading: float) -> None:
        """Its type's shape in its team's colour, turned to where it looks."""
        unit, team = self.recording.types[i], self.recording.teams[i]
        cos, sin = math.cos(heading) * unit.radius, math.sin(heading) * unit.radius
        shape = look.outline(unit) @ np.array([[cos, sin], [-sin, cos]])
        core = look.ACID_COLOUR if unit.weapon == "kamikaze" else TEAM_LIGHT[team]
        for size, colour in ((1.0, TEAM_DARK[team]), (1 - 0.09 / unit.radius, TEAM[team]), (0.42, core)):
            draw.polygon(self.camera(place + shape * size), fill=colour)

    def _draw_attack(self, draw: ImageDraw.ImageDraw, attack: Attack, places: np.ndarray) -> None:
        """A line to everyone that it hits; of an explosion, its area."""
        unit, start = self.recording.types[attack.attacker], places[attack.attacker]
        if attack.kind == "blast":
            draw.polygon(self.camera(start + look.CIRCLE * unit.blast_radius), fill=(*look.ACID_COLOUR, 130))
            return
        colour = look.HEAL_COLOUR if attack.kind == "heal" else TEAM_LIGHT[self.recording.teams[attack.attacker]]
        for target in attack.targets:
            way = places[target] - start
            rim = start + way * (unit.radius / max(math.hypot(*way), unit.radius))
            width = round((0.08 + unit.damage / 220) * self.camera.scale)
            draw.line(self.camera(np.stack([rim, places[target]])), (*colour, 210), width)

    def _draw_bars(self, draw: ImageDraw.ImageDraw, i: int, row: np.ndarray) -> None:
        """Health, and shield above it; in a crowd only of the hurt."""
        unit = self.recording.types[i]
        health = row[HP] / unit.hp
        bars = [(health, look.health_colour(health), 3)]
        if unit.shield:
            bars.append((row[SHIELD] / unit.shield, look.SHIELD_COLOUR, 2))
        if len(self.recording.types) > look.CROWD and min(share for share, _, _ in bars) > 0.999:
            return
        top_of_unit = row[None, :2] + (0, 1.2 * unit.radius)
        x, y, half = *self.camera(top_of_unit)[0], 0.9 * unit.radius * self.camera.scale
        x, y, half = (round(v / SUPERSAMPLING) * SUPERSAMPLING for v in (x, y, half))  # whole pixels stay crisp
        for share, colour, pixels in bars:
            top, rim = y - pixels * SUPERSAMPLING, SUPERSAMPLING
            draw.rectangle((x - half - rim, top - rim, x + half + rim - 1, y + rim - 1), fill=look.PANEL_COLOUR)
            draw.rectangle((x - half, top, x - half + max(2 * half * share, rim) - 1, y - 1), fill=colour)
            y = top - rim

    def _draw_score(self, draw: ImageDraw.ImageDraw, time: float, units: np.ndarray, living: list[int]) -> None:
        """The step, at the end the outcome, and of each team the number of living units and their health."""
        recording = self.recording
        ended, font = time >= recording.steps, ImageFont.load_default(15)
        text = f"{recording.outcome} at step {recording.steps}" if ended else f"step {int(time)} of {recording.steps}"
        colour = look.OUTCOME_COLOURS[recording.outcome] if ended else look.WHITE
        draw.text((WIDTH // 2, 42), text, colour, ImageFont.load_default(17) if ended else font, "mm")
        for team, (outer, inner) in enumerate([(14, WIDTH // 2 - 84), (WIDTH - 14, WIDTH // 2 + 84)]):
            members = np.flatnonzero(recording.teams == team)
            alive = np.intersect1d(members, living)
            full = sum(recording.types[i].hp + recording.types[i].shield for i in members)
            share = units[alive, HP : SHIELD + 1].sum() / full
            draw.text((outer, 42), f"{len(alive)}/{len(members)}", TEAM[team], font, "rm" if team else "lm")
            start = outer + math.copysign(48, inner - outer)
            bars = [(inner, TEAM_DARK[team]), (start + (inner - start) * share, TEAM[team])]
            for end, colour in bars if len(alive) else bars[:1]:
                draw.rectangle((min(start, end), 36, max(start, end), 48), colour)


def _draw_legend(field: Image.Image, recording: Recording) -> None:
    """The shape of each unit type, if there are several."""
    types = sorted({unit.name: unit for unit in recording.types}.items())
    draw, font, x, y = ImageDraw.Draw(field), ImageFont.load_default(13 * SUPERSAMPLING), 60.0, field.height - 40
    for name, unit in types if len(types) > 1 else []:
        draw.polygon([(x + 18 * a, y - 18 * b) for a, b in look.outline(unit).tolist()], fill=look.LEGEND_COLOUR)
        draw.text((x + 30, y), name.replace("_", " "), look.LEGEND_COLOUR, font, "lm")
        x += 90 + font.getlength(name)


def _draw_header(name: str, title: str) -> Image.Image:
    """The scenario's name and the title, cut to what fits."""
    header = Image.new("RGB", (WIDTH, HEADER), look.PANEL_COLOUR)
    draw, font = ImageDraw.Draw(header), ImageFont.load_default(15)
    start = 14 + font.getlength(name) + 12
    while title and start + font.getlength(title) > WIDTH - 14:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    draw.text((14, 17), name, look.WHITE, font, "lm")
    draw.text((start, 17), title, look.LEGEND_COLOUR, font, "lm")
    return header
