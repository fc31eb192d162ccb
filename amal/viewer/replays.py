"""Replays: an animated GIF of a recorded battle, drawn with Pillow.

A recording has a row per step of half a second. strikes.py says what happened between the rows; here the moments in
between are drawn. Times count steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from amal.battle.battlefield import Scenario, UnitType
from amal.runtime.atomic import replacing
from amal.viewer.field import GROUND_COLOUR, SUPERSAMPLING, WIDTH, Camera, Colour, aim_camera, draw_field
from amal.viewer.strikes import (
    ALIVE,
    HP,
    MELEE_RANGE,
    SHIELD,
    STEP_SECONDS,
    Strike,
    find_strikes,
    headings,
    times_of_death,
)

FRAMES_PER_STEP = 5
FRAME_MS = 80  # 1.25 times the speed of the battle
MAX_FRAMES = 600  # longer battles get fewer frames per step, so that the file stays small enough to send
HOLD_MS = 1500
AFTERMATH_STEPS = 1.0  # the verdict fades in while the last shots fade out

HEADER = 62
COLOURS = 127  # in the GIF; half of what it could have takes a tenth off the file and is not seen

PANEL_COLOUR: Colour = (20, 23, 26)
DIM_TEXT: Colour = (150, 160, 166)
WHITE: Colour = (255, 255, 255)
TEAM: tuple[Colour, Colour] = ((86, 180, 233), (230, 159, 0))  # Okabe-Ito sky blue and orange
TEAM_DARK: tuple[Colour, Colour] = ((9, 45, 72), (78, 42, 0))
TEAM_LIGHT: tuple[Colour, Colour] = ((208, 236, 255), (255, 232, 170))
HEALTH: tuple[Colour, Colour, Colour] = ((213, 60, 20), (240, 228, 66), (0, 178, 120))  # empty, half, full
SHIELD_COLOUR: Colour = (176, 220, 255)
HEAL_COLOUR: Colour = (110, 240, 150)
ACID_COLOUR: Colour = (205, 235, 90)
FIRE_COLOUR: Colour = (255, 120, 60)

STRIKE_STEPS = {"tracer": 0.4, "slash": 0.5, "laser": 0.7, "blast": 1.2, "heal": 1.0}  # how long each stays visible
FLASH_STEPS = 0.4
MARK_STEPS = 6.0  # how long the place of a death is marked
VERDICT_COLOURS: dict[str, Colour] = {"victory": TEAM[0], "defeat": TEAM[1], "draw": WHITE}
CROWD = 24  # units; where there are more, only the hurt have a bar


def _polar(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=-1)


def _turn(corners: int) -> np.ndarray:
    return np.arange(corners) * (2 * np.pi / corners)


_CIRCLE = _polar(_turn(28), 1.0)
_SPARK = _polar(_turn(8), np.where(np.arange(8) % 2 == 0, 1.0, 0.35))
_SQUARE = np.sign(_CIRCLE) * np.abs(_CIRCLE) ** 0.45 * 0.92  # a superellipse: rounded corners
_PLUS = np.array([(1, 0.38), (0.38, 0.38), (0.38, 1), (-0.38, 1), (-0.38, 0.38), (-1, 0.38)])
SHAPES = {  # outlines [K, 2] in unit radii, facing +x; a type that is not listed is a circle
    "marauder": _SQUARE,
    "medivac": np.concatenate([_PLUS, -_PLUS]),
    "stalker": np.array([(1.15, 0), (0, 0.85), (-1.0, 0), (0, -0.85)]),
    "zealot": np.array([(1.15, 0), (-0.05, 0.75), (-0.8, 1.0), (-0.6, 0), (-0.8, -1.0), (-0.05, -0.75)]),
    "colossus": _polar(_turn(6), 1.0),
    "zergling": np.array([(1.25, 0), (-0.85, 0.8), (-0.4, 0), (-0.85, -0.8)]),
    "baneling": _polar(_turn(30), 0.95 + 0.08 * np.cos(5 * _turn(30))),
    "hydralisk": _polar(_turn(5), 1.05),
    "spine_crawler": _polar(_turn(16), np.where(np.arange(16) % 2 == 0, 1.2, 0.72)),
}


Verdict = Literal["victory", "defeat", "draw"]


def render_gif(scenario: Scenario, units: np.ndarray, path: Path, title: str = "") -> None:
    """Draw the battle recorded in units [T+1, U, 9] and write it to path; an old file stays if anything fails."""
    replay = Replay(scenario, units, title)
    times = replay.times()
    palette = _shared_palette([replay.frame(time) for time in times[:: max(len(times) // 12, 1)] + times[-1:]])
    frames = (replay.frame(time).quantize(palette=palette, dither=Image.Dither.NONE) for time in times)
    _write_gif(frames, palette, replay.durations(), path)


def checked(scenario: Scenario, units: np.ndarray) -> np.ndarray:
    """The recording [T+1, U, 9] in double precision, if it can be one of that scenario; else a ValueError."""
    if units.ndim != 3 or len(units) < 2 or units.shape[1] != len(scenario.units):
        raise ValueError(
            f"{scenario.name}: expected a recording [T+1, {len(scenario.units)}, 9] of at least one step, "
            f"got {list(units.shape)}"
        )
    return np.asarray(units, dtype=np.float64)


def team_of_each(scenario: Scenario) -> np.ndarray:
    """[U] int64: 0 for allies, 1 for enemies, as in TEAM."""
    return np.array([int(side == "enemy") for side in scenario.sides])


def verdict(teams: np.ndarray, alive: np.ndarray) -> Verdict:
    """How a battle ended, by teams [U] and who lives at its end, [U] bool."""
    allies, enemies = (bool(alive[teams == team].any()) for team in (0, 1))
    return "victory" if not enemies else "draw" if allies else "defeat"


def outline(unit: UnitType) -> np.ndarray:
    """The unit's shape [K, 2] in unit radii, facing +x."""
    return SHAPES.get(unit.name, _CIRCLE)


def has_barrel(unit: UnitType) -> bool:
    return unit.attack_range > MELEE_RANGE and unit.weapon == "standard"


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    r, g, b = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return r, g, b


def _health_colour(share: float) -> Colour:
    empty, half, full = HEALTH
    return _mix(empty, half, share * 2) if share < 0.5 else _mix(half, full, share * 2 - 1)


@dataclass(frozen=True)
class Brush:
    """Draws onto the supersampled field in its own units: points [K, 2] and widths in cells, opacity from 0 to 1."""

    draw: ImageDraw.ImageDraw
    camera: Camera

    def area(self, points: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        self.draw.polygon(self.camera(points), fill=(*colour, round(255 * opacity)))

    def line(self, points: np.ndarray, width: float, colour: Colour, opacity: float = 1.0) -> None:
        pixels = max(SUPERSAMPLING, round(width * self.camera.scale))
        self.draw.line(self.camera(points), (*colour, round(255 * opacity)), pixels, joint="curve")

    def ring(self, centre: np.ndarray, radius: float, width: float, colour: Colour, opacity: float) -> None:
        self.line(centre + np.concatenate([_CIRCLE, _CIRCLE[:2]]) * radius, width, colour, opacity)

    def beam(self, start: np.ndarray, end: np.ndarray, width: float, colour: Colour, opacity: float) -> None:
        ends = np.stack([start, end])
        self.line(ends, 3 * width, colour, 0.3 * opacity)
        self.line(ends, width, colour, opacity)


@dataclass(frozen=True)
class Moment:
    """A battle between two rows of its recording."""

    time: float
    units: np.ndarray  # [U, 9], interpolated
    alive: np.ndarray  # [U] bool
    heading: np.ndarray  # [U] radians
    strikes: list[tuple[Strike, float]]  # those still to be seen, with their age from 0 (new) to 1 (gone)


class Replay:
    """A battle that can be drawn at any time."""

    def __init__(self, scenario: Scenario, units: np.ndarray, title: str) -> None:
        units = checked(scenario, units)
        self.types = scenario.units
        self.teams = team_of_each(scenario)
        self.units, self.steps = units, len(units) - 1
        self.strikes = find_strikes(scenario, units)
        self.death = times_of_death(units, self.strikes)
        self.headings = headings(scenario, units, self.strikes)
        self.camera = aim_camera(units)
        self.field = draw_field(scenario.ground, self.camera)
        self.panel = _draw_panel(scenario.name, title)

    def times(self) -> list[float]:
        """When to draw a frame, from the start until the verdict stands."""
        per_step = min(max(MAX_FRAMES // self.steps, 1), FRAMES_PER_STEP)
        return [i / per_step for i in range(round((self.steps + AFTERMATH_STEPS) * per_step) + 1)]

    def durations(self) -> list[int]:
        """How long each of these frames stands, in ms."""
        return [4 * FRAME_MS] + [FRAME_MS] * (len(self.times()) - 2) + [HOLD_MS]

    def frame(self, time: float) -> Image.Image:
        """The picture at a time, RGB."""
        moment = self._moment(time)
        picture = self.field.copy()
        brush = Brush(ImageDraw.Draw(picture, "RGBA"), self.camera)
        self._draw_deaths(brush, moment)
        self._draw_units(brush, moment)
        for strike, age in moment.strikes:
            self._draw_strike(brush, moment, strike, age)
        self._draw_bars(brush, moment)
        whole = Image.new("RGB", (WIDTH, HEADER + picture.height // SUPERSAMPLING))
        whole.paste(self.panel)
        whole.paste(picture.reduce(SUPERSAMPLING), (0, HEADER))
        self._draw_score(whole, moment)
        if time > self.steps:
            self._draw_verdict(whole, moment, (time - self.steps) / AFTERMATH_STEPS)
        return whole

    def _moment(self, time: float) -> Moment:
        t = min(int(time), self.steps - 1)
        # A unit that dies within the step goes through all its changes until then.
        passed = np.minimum((min(time, self.steps) - t) / np.clip(self.death - t, 1e-6, 1.0), 1.0)
        units = self.units[t] + (self.units[t + 1] - self.units[t]) * passed[:, None]
        alive = (self.units[0, :, ALIVE] > 0) & (time < self.death)
        units[~alive, HP : SHIELD + 1] = 0
        turn = (self.headings[t + 1] - self.headings[t] + np.pi) % (2 * np.pi) - np.pi  # the short way round
        heading = self.headings[t] + turn * np.minimum(passed * 2.5, 1.0)
        ages = [(strike, (time - strike.time) / STRIKE_STEPS[strike.kind]) for strike in self.strikes]
        return Moment(time, units, alive, heading, [(strike, age) for strike, age in ages if 0 <= age < 1])

    def _draw_deaths(self, brush: Brush, moment: Moment) -> None:
        """A cross that fades slowly, and a ring that spreads at the moment of death."""
        for i in np.flatnonzero((self.death <= moment.time) & (moment.time < self.death + MARK_STEPS)):
            age, radius, spot = moment.time - self.death[i], self.types[i].radius, moment.units[i, :2]
            colour = _mix(TEAM[self.teams[i]], GROUND_COLOUR, 0.35)
            opacity = 0.75 * math.ceil(5 - 5 * age / MARK_STEPS) / 5  # few levels: what does not change costs no bytes
            arm = np.array([[-0.5], [0.5]]) * radius
            brush.line(spot + arm * (1, 1), 0.1, colour, opacity)
            brush.line(spot + arm * (1, -1), 0.1, colour, opacity)
            if age < 1:
                brush.ring(spot, radius * (0.7 + age), 0.12 * (1 - age), TEAM_LIGHT[self.teams[i]], 1 - age)

    def _draw_units(self, brush: Brush, moment: Moment) -> None:
        flash, lunge = np.zeros(len(self.types)), np.zeros(len(self.types))
        for strike, age in moment.strikes:
            if strike.kind != "heal":
                hit = list(strike.victims)
                flash[hit] = np.maximum(flash[hit], 1 - age * STRIKE_STEPS[strike.kind] / FLASH_STEPS)
            if strike.kind == "slash":
                lunge[strike.attacker] = 0.22 * math.sin(math.pi * age)
        spots = moment.units[:, :2] + _polar(moment.heading, lunge)
        for i in sorted(np.flatnonzero(moment.alive), key=lambda i: (self.types[i].plane == "air", -spots[i, 1])):
            _draw_unit(brush, self.types[i], self.teams[i], spots[i], moment.heading[i], flash[i])

    def _draw_strike(self, brush: Brush, moment: Moment, strike: Strike, age: float) -> None:
        unit, light = self.types[strike.attacker], TEAM_LIGHT[self.teams[strike.attacker]]
        start = moment.units[strike.attacker, :2]
        if strike.kind == "blast":
            radius = unit.blast_radius * min(0.45 + age, 1.0)
            brush.area(start + _CIRCLE * radius, ACID_COLOUR, 0.4 * (1 - age))
            brush.ring(start, radius, 0.16 * (1 - age), ACID_COLOUR, 1 - age)
            return
        end = moment.units[strike.victims[0], :2]
        way = (end - start) / max(math.dist(start, end), 1e-9)
        across = np.array([-way[1], way[0]])
        start, rim = start + way * unit.radius, end - way * self.types[strike.victims[0]].radius * 0.7
        if strike.kind == "tracer":
            brush.beam(start, rim, 0.05 + unit.damage / 220, light, 1 - 0.7 * age)
            brush.area(rim + _SPARK * 0.3 * (1 - age), light, 1 - age)
        elif strike.kind == "slash":
            swing, back = across * (0.5 - 0.2 * age), way * 0.15
            brush.line(np.stack([rim - swing - back, rim + back, rim + swing - back]), 0.13, light, 1 - age)
        elif strike.kind == "laser":
            edge = across * unit.beam_width / 2
            reached = end - edge + 2 * edge * min(age * 1.6, 1.0)
            brush.beam(end - edge, reached, 0.16, FIRE_COLOUR, 1 - age)
            brush.beam(start, reached, 0.1, light, 1 - 0.8 * age)
        else:
            brush.beam(start, end, 0.1, HEAL_COLOUR, 0.7 - 0.15 * math.cos(4 * math.pi * age))

    def _draw_bars(self, brush: Brush, moment: Moment) -> None:
        """Health, and shield above it, over every living unit; in a crowd only over the hurt."""
        for i in np.flatnonzero(moment.alive):
            unit, health = self.types[i], moment.units[i, HP] / self.types[i].hp
            bars = [(health, _health_colour(health), 3)]
            if unit.shield:
                bars.append((moment.units[i, SHIELD] / unit.shield, SHIELD_COLOUR, 2))
            if len(self.types) > CROWD and min(share for share, _, _ in bars) > 0.999:
                continue
            (x, y), half = self.camera(moment.units[i : i + 1, :2])[0], unit.radius * 0.9 * self.camera.scale
            x, y, half = (round(v / SUPERSAMPLING) * SUPERSAMPLING for v in (x, y, half))  # whole pixels stay crisp
            y -= round(unit.radius * 1.1 * self.camera.scale / SUPERSAMPLING + 2) * SUPERSAMPLING
            for share, colour, pixels in bars:
                low, rim = y - pixels * SUPERSAMPLING, SUPERSAMPLING
                brush.draw.rectangle((x - half - rim, low - rim, x + half + rim - 1, y + rim - 1), fill=PANEL_COLOUR)
                brush.draw.rectangle((x - half, low, x - half + max(2 * half * share, rim) - 1, y - 1), fill=colour)
                y = low - rim

    def _draw_score(self, whole: Image.Image, moment: Moment) -> None:
        """The clock, and per side the number of living units beside a bar of their total health and shields."""
        draw = ImageDraw.Draw(whole)
        seconds = f"{min(moment.time, self.steps) * STEP_SECONDS:.1f} s"
        draw.text((WIDTH - 14, 10), seconds, fill=DIM_TEXT, font=_font(14), anchor="ra")
        for team, (outer, inner, anchor) in enumerate([(14, WIDTH // 2 - 8, "lm"), (WIDTH - 14, WIDTH // 2 + 8, "rm")]):
            members = np.flatnonzero(self.teams == team)
            left = moment.units[members, HP : SHIELD + 1].sum()
            left /= sum(self.types[i].hp + self.types[i].shield for i in members)
            count = f"{moment.alive[members].sum()}/{len(members)}"
            draw.text((outer, 45), count, fill=TEAM[team], font=_font(14, "-Bold"), anchor=anchor)
            full = outer + math.copysign(60, inner - outer)
            end = inner + (full - inner) * left  # both shrink towards the middle, as in a duel
            draw.rounded_rectangle((min(full, inner), 39, max(full, inner), 51), 3, fill=TEAM_DARK[team])
            if abs(end - inner) >= 1:
                draw.rounded_rectangle((min(end, inner), 39, max(end, inner), 51), 3, fill=TEAM[team])

    def _draw_verdict(self, whole: Image.Image, moment: Moment, opacity: float) -> None:
        """The outcome, in the half of the field that is further from the survivors."""
        word = verdict(self.teams, moment.alive)
        colour = VERDICT_COLOURS[word]
        height = whole.height - HEADER
        survivors = self.camera(moment.units[moment.alive, :2])
        above = sum(y for _, y in survivors) / max(len(survivors), 1) / SUPERSAMPLING > height / 2
        middle = HEADER + height * (0.22 if above else 0.78)
        draw = ImageDraw.Draw(whole, "RGBA")
        draw.rectangle((0, middle - 36, WIDTH, middle + 36), fill=(*PANEL_COLOUR, round(180 * opacity)))
        fill = (*colour, round(255 * opacity))
        draw.text((WIDTH // 2, middle), word, fill=fill, font=_font(40, "-Bold"), anchor="mm")


def _draw_unit(brush: Brush, unit: UnitType, team: int, spot: np.ndarray, heading: float, flash: float) -> None:
    cos, sin = math.cos(heading), math.sin(heading)
    turn = np.array([[cos, sin], [-sin, cos]]) * unit.radius
    shape = outline(unit) @ turn
    height = np.array([0.22, -0.42]) if unit.plane == "air" else np.array([0.05, -0.1])
    brush.area(spot + height + shape, (0, 0, 0), 0.35)
    if has_barrel(unit):
        barrel = spot + np.array([(0.5, 0.0), (1.5, 0.0)]) @ turn
        brush.line(barrel, 0.26, TEAM_DARK[team])
        brush.line(barrel, 0.12, TEAM_LIGHT[team])
    core = ACID_COLOUR if unit.weapon == "kamikaze" else TEAM_LIGHT[team]
    brush.area(spot + shape, TEAM_DARK[team])
    brush.area(spot + shape * (1 - 0.09 / unit.radius), _mix(TEAM[team], WHITE, 0.6 * flash))
    brush.area(spot + np.array([0.12, 0.0]) @ turn + shape * 0.42, core)


@cache
def _font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{weight}.ttf", size)


def _draw_panel(name: str, title: str) -> Image.Image:
    """The part of the header that stays: the scenario's name and the title, cut to what fits."""
    panel = Image.new("RGB", (WIDTH, HEADER), PANEL_COLOUR)
    draw, font = ImageDraw.Draw(panel), _font(14)
    draw.text((14, 9), name, fill=WHITE, font=_font(15, "-Bold"))
    start = 14 + _font(15, "-Bold").getlength(name) + 12
    while title and start + font.getlength(title) > WIDTH - 90:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    draw.text((start, 10), title, fill=DIM_TEXT, font=font)
    return panel


def _shared_palette(frames: list[Image.Image]) -> Image.Image:
    """One palette for all frames, so that colours do not flicker: those with a meaning as they are, the rest fitted to
    the frames; one more entry stays free for 'unchanged'."""
    meaning = [*TEAM, *TEAM_DARK, *TEAM_LIGHT, SHIELD_COLOUR, HEAL_COLOUR, ACID_COLOUR, PANEL_COLOUR, DIM_TEXT, WHITE]
    meaning += [_health_colour(level / 8) for level in range(9)]
    pixels = np.concatenate([np.asarray(frame)[::2, ::2].reshape(-1, 3) for frame in frames]).astype(np.int32)
    codes, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_counts=True)
    codes = np.repeat(codes, np.minimum(np.sqrt(counts).astype(int), 60))  # else the ground would take nearly all
    sample = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)[None]
    fitted = Image.fromarray(sample).quantize(COLOURS - len(meaning), Image.Quantize.MEDIANCUT).getpalette() or []
    colours = [channel for colour in meaning for channel in colour] + fitted[: 3 * (COLOURS - len(meaning))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours + [0] * (3 * COLOURS - len(colours)) + [255, 0, 255])
    return palette


def _write_gif(frames: Iterator[Image.Image], palette: Image.Image, durations: list[int], path: Path) -> None:
    with replacing(path) as part:
        next(frames).save(
            part,
            save_all=True,
            append_images=frames,
            duration=durations,
            loop=0,
            palette=bytes(palette.getpalette() or []),
            transparency=COLOURS,
            optimize=True,  # stores only what changes between frames
        )
