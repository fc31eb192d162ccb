"""The player: a battle and what its algorithm thought of every action, as one HTML file that needs nothing else.

player.html is filled with player.css, player.js, player_panels.js and the data of a battle.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amal.battle.battlefield import MOVE_ACTIONS, Scenario, UnitType
from amal.battle.vector import ACTION_NAMES
from amal.runtime.atomic import replacing
from amal.viewer import appearance as look
from amal.viewer.action_recorder import ChosenActions
from amal.viewer.field import SUPERSAMPLING, Camera, aim_camera, draw_field
from amal.viewer.recording import ALIVE, HP, MELEE_RANGE, SHIELD, STEP_SECONDS, TARGET, Recording

DECIMALS = 4  # of a score
JPEG_QUALITY = 80  # of the field, which is soft: more is not seen


def write_html(recording: Recording, chosen: ChosenActions, path: Path, title: str = "") -> None:
    """Write a player of the battle; an old file stays if anything fails."""
    page = fill_page(battle_data(recording, chosen, title), f"{recording.scenario.name} {title}".strip())
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


def battle_data(recording: Recording, chosen: ChosenActions, title: str) -> dict[str, Any]:
    """All that the player shows, in what JSON has."""
    scenario, camera = recording.scenario, aim_camera(recording.units)
    number = {"ally": iter(range(len(recording.types))), "enemy": iter(range(len(recording.types)))}
    names = [f"{unit.name} #{next(number[side])}" for unit, side in zip(scenario.units, scenario.sides, strict=True)]
    return {
        "scenario": scenario.name,
        "title": title,
        "outcome": recording.outcome,
        "step_seconds": STEP_SECONDS,
        "style": _style_data(),
        "camera": _camera_data(camera),
        "field": _picture(draw_field(scenario.ground, camera), camera),
        "types": {unit.name: _type_data(unit) for unit in recording.types},
        "units": [
            {"type": unit.name, "team": int(team), "name": name.replace("_", " ")}
            for unit, team, name in zip(recording.types, recording.teams, names, strict=True)
        ],
        "frames": _frames(recording.units, recording.headings),
        "deaths": [None if np.isinf(time) else round(float(time), 3) for time in recording.deaths],
        "attacks": [[a.kind, round(a.time, 3), a.attacker, list(a.targets)] for a in recording.attacks],
        "moves": MOVE_ACTIONS,
        "agents": [_agent_data(scenario, me) for me in np.flatnonzero(recording.teams == 0).tolist()],
        "actions": chosen.actions.tolist(),
        "kind": chosen.kind,
        "scores": _scores(chosen),
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
        "barrel": unit.attack_range > MELEE_RANGE and unit.weapon == "standard",
        "shape": look.outline(unit).round(3).tolist(),
    }


def _style_data() -> dict[str, Any]:
    return {
        "team": look.TEAM,
        "dark": look.TEAM_DARK,
        "light": look.TEAM_LIGHT,
        "health": look.HEALTH,
        "shield": look.SHIELD_COLOUR,
        "heal": look.HEAL_COLOUR,
        "acid": look.ACID_COLOUR,
        "panel": look.PANEL_COLOUR,
        "ground": look.GROUND_COLOUR,
        "outcome": look.OUTCOME_COLOURS,
        "width": look.WIDTH,
        "crowd": look.CROWD,
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


def _scores(chosen: ChosenActions) -> list[list[list[float]]] | None:
    """[T][N] of an agent's available actions, each followed by its score."""
    if chosen.scores is None:
        return None
    return [
        [_available_scores(mine, scores) for mine, scores in zip(*step, strict=True)]
        for step in zip(chosen.available_actions, chosen.scores.astype(np.float64).round(DECIMALS), strict=True)
    ]


def _available_scores(available: np.ndarray, scores: np.ndarray) -> list[float]:
    """Of one agent, from [A] each."""
    actions = np.flatnonzero(available)
    return [x for pair in zip(actions.tolist(), scores[actions].tolist(), strict=True) for x in pair]
