"""The player: a battle and what its policy thought, as one HTML file that needs nothing else.

player.html is filled with player.css, player.js, player_panels.js and the data of a battle. They draw what replays.py
draws, with its shapes, colours and times.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amal.battle.battlefield import MOVE_ACTIONS, Scenario, UnitType
from amal.battle.vector import ACTION_NAMES
from amal.runtime.atomic import replacing
from amal.viewer import replays
from amal.viewer.field import GROUND_COLOUR, SUPERSAMPLING, WIDTH, Camera, aim_camera, draw_field
from amal.viewer.strikes import ALIVE, HP, SHIELD, STEP_SECONDS, TARGET, find_strikes, headings, times_of_death

SHARES = 1000  # probabilities are told in this many parts of 1
JPEG_QUALITY = 80  # of the field, which is soft: more is not seen


@dataclass(frozen=True)
class Decisions:
    """What the allies chose in a battle, and from what."""

    actions: np.ndarray  # [T, N] int64
    available: np.ndarray  # [T, N, A] bool
    probabilities: np.ndarray  # [T, N, A], of the policy; 0 where not available


def render_html(scenario: Scenario, units: np.ndarray, decisions: Decisions, path: Path, title: str = "") -> None:
    """Write a player of the battle recorded in units [T+1, U, 9]; an old file stays if anything fails."""
    page = fill_page(battle_data(scenario, units, decisions, title), f"{scenario.name} {title}".strip())
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def fill_page(data: dict[str, Any], title: str) -> str:
    """The whole page."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _template("player.css"),
        "SCRIPT": _template("player.js") + _template("player_panels.js"),
        "DATA": text.replace("<", "\\u003c"),  # nothing in it can end the script element
    }
    # in one pass: a part may hold what looks like the place of another
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _template("player.html"))


@cache
def _template(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def battle_data(scenario: Scenario, units: np.ndarray, decisions: Decisions, title: str) -> dict[str, Any]:
    """All that the player shows, in what JSON has."""
    units = replays.checked(scenario, units)
    strikes = find_strikes(scenario, units)
    death = times_of_death(units, strikes)
    camera = aim_camera(units)
    teams = replays.team_of_each(scenario)
    types = {unit.name: _type_data(unit) for unit in scenario.units}
    number = {"ally": iter(range(len(teams))), "enemy": iter(range(len(teams)))}
    names = [f"{unit.name} #{next(number[side])}" for unit, side in zip(scenario.units, scenario.sides, strict=True)]
    return {
        "scenario": scenario.name,
        "title": title,
        "verdict": replays.verdict(teams, units[-1, :, ALIVE] > 0),
        "step_seconds": STEP_SECONDS,
        "style": _style_data(),
        "camera": _camera_data(camera),
        "field": _picture(draw_field(scenario.ground, camera), camera),
        "types": types,
        "units": [
            {"type": unit.name, "team": int(team), "name": name.replace("_", " ")}
            for unit, team, name in zip(scenario.units, teams, names, strict=True)
        ],
        "frames": _frames(units, headings(scenario, units, strikes)),
        "deaths": [None if np.isinf(time) else round(float(time), 3) for time in death],
        "strikes": [[s.kind, round(s.time, 3), s.attacker, list(s.victims)] for s in strikes],
        "moves": MOVE_ACTIONS,
        "agents": [_agent_data(scenario, me) for me in np.flatnonzero(teams == 0).tolist()],
        "actions": decisions.actions.tolist(),
        "probabilities": [
            [_offer(mine, p) for mine, p in zip(available, shares, strict=True)]
            for available, shares in zip(decisions.available, decisions.probabilities, strict=True)
        ],
    }


def action_names(scenario: Scenario, me: int) -> list[str]:
    """Names of all actions of the ally with that global id."""
    names = list(ACTION_NAMES)
    for k, target in enumerate(_targets(scenario, me)):
        verb = "heal" if scenario.units[me].weapon == "heal" else "attack"
        names.append(f"{verb} {scenario.units[target].name.replace('_', ' ')} #{k}")
    return names


def _targets(scenario: Scenario, me: int) -> list[int]:
    """Global ids that the actions from MOVE_ACTIONS on aim at."""
    side = "ally" if scenario.units[me].weapon == "heal" else "enemy"
    members = [i for i, s in enumerate(scenario.sides) if s == side]
    return members[: scenario.n_actions - MOVE_ACTIONS]


def _agent_data(scenario: Scenario, me: int) -> dict[str, Any]:
    return {"unit": me, "actions": action_names(scenario, me), "targets": _targets(scenario, me)}


def _type_data(unit: UnitType) -> dict[str, Any]:
    return {
        "hp": unit.hp,
        "shield": unit.shield,
        "radius": unit.radius,
        "damage": unit.damage,
        "blast_radius": unit.blast_radius,
        "beam_width": unit.beam_width,
        "air": unit.plane == "air",
        "kamikaze": unit.weapon == "kamikaze",
        "barrel": replays.has_barrel(unit),
        "shape": replays.outline(unit).round(3).tolist(),
    }


def _style_data() -> dict[str, Any]:
    return {
        "team": replays.TEAM,
        "dark": replays.TEAM_DARK,
        "light": replays.TEAM_LIGHT,
        "health": replays.HEALTH,
        "shield": replays.SHIELD_COLOUR,
        "heal": replays.HEAL_COLOUR,
        "acid": replays.ACID_COLOUR,
        "fire": replays.FIRE_COLOUR,
        "panel": replays.PANEL_COLOUR,
        "ground": GROUND_COLOUR,
        "verdict": replays.VERDICT_COLOURS,
        "width": WIDTH,
        "strike_steps": replays.STRIKE_STEPS,
        "flash_steps": replays.FLASH_STEPS,
        "mark_steps": replays.MARK_STEPS,
        "aftermath_steps": replays.AFTERMATH_STEPS,
        "crowd": replays.CROWD,
    }


def _camera_data(camera: Camera) -> dict[str, float]:
    """The part of the field that is seen, in cells."""
    width, height = (length / camera.scale for length in camera.size)
    return {"left": camera.left, "top": camera.top, "width": width, "height": height}


def _picture(field: Image.Image, camera: Camera) -> str:
    """The field as a data URL, at twice the size that the GIF has: screens have finer pixels than that."""
    size = (2 * camera.size[0] // SUPERSAMPLING, 2 * camera.size[1] // SUPERSAMPLING)
    file = io.BytesIO()
    field.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _frames(units: np.ndarray, heading: np.ndarray) -> list[list[list[float]]]:
    """[T+1][U] of x, y, heading, and, of the living, hp, shield and the target's id or -1."""
    frames = []
    for row, looks in zip(units, heading, strict=True):
        places = np.concatenate([row[:, :2], looks[:, None]], axis=1).round(2).tolist()
        state = row[:, [HP, SHIELD, TARGET]].round(1)
        frames.append(
            [
                [_short(v) for v in place + (state[i].tolist() if row[i, ALIVE] > 0 else [])]
                for i, place in enumerate(places)
            ]
        )
    return frames


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _offer(available: np.ndarray, probabilities: np.ndarray) -> list[int]:
    """The available actions [A] of one agent, each followed by its probability in parts of SHARES, rounded so that they
    add up to all of it."""
    actions = np.flatnonzero(available)
    exact = probabilities[actions].astype(np.float64)
    exact *= SHARES / exact.sum()
    parts = np.floor(exact).astype(int)
    missing = SHARES - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    return np.stack([actions, parts], axis=-1).ravel().tolist()
