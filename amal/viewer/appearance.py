"""Colours and shapes of a battle, the same in the film and in the player."""

from __future__ import annotations

import numpy as np

from amal.battle.battlefield import UnitType

Colour = tuple[int, int, int]

WIDTH = 560  # pixels of the film
CROWD = 24  # units; where there are more, only the hurt have a health bar

GROUND_COLOUR: Colour = (58, 68, 70)
ROCK_COLOUR: Colour = (34, 39, 44)
RIM_COLOUR: Colour = (84, 94, 100)
PANEL_COLOUR: Colour = (20, 23, 26)
LEGEND_COLOUR: Colour = (150, 160, 166)
WHITE: Colour = (255, 255, 255)
TEAM: tuple[Colour, Colour] = ((86, 180, 233), (230, 159, 0))  # Okabe-Ito sky blue and orange
TEAM_DARK: tuple[Colour, Colour] = ((9, 45, 72), (78, 42, 0))
TEAM_LIGHT: tuple[Colour, Colour] = ((208, 236, 255), (255, 232, 170))
HEALTH: tuple[Colour, Colour, Colour] = ((213, 60, 20), (240, 228, 66), (0, 178, 120))  # empty, half, full
SHIELD_COLOUR: Colour = (176, 220, 255)
HEAL_COLOUR: Colour = (110, 240, 150)
ACID_COLOUR: Colour = (205, 235, 90)
OUTCOME_COLOURS: dict[str, Colour] = {"victory": TEAM[0], "defeat": TEAM[1], "draw": WHITE}


def _polar(corners: int, radii: np.ndarray | float) -> np.ndarray:
    angles = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=-1)


CIRCLE = _polar(28, 1.0)
_PLUS = np.array([(1, 0.38), (0.38, 0.38), (0.38, 1), (-0.38, 1), (-0.38, 0.38), (-1, 0.38)])
SHAPES = {  # outlines [K, 2] in unit radii, facing +x; a type that is not listed is a circle
    "marauder": np.sign(CIRCLE) * np.abs(CIRCLE) ** 0.45 * 0.92,  # a superellipse: a square with rounded corners
    "medivac": np.concatenate([_PLUS, -_PLUS]),
    "stalker": np.array([(1.15, 0), (0, 0.85), (-1.0, 0), (0, -0.85)]),
    "zealot": np.array([(1.15, 0), (-0.05, 0.75), (-0.8, 1.0), (-0.6, 0), (-0.8, -1.0), (-0.05, -0.75)]),
    "colossus": _polar(6, 1.0),
    "zergling": np.array([(1.25, 0), (-0.85, 0.8), (-0.4, 0), (-0.85, -0.8)]),
    "baneling": _polar(30, 0.95 + 0.08 * np.cos(np.arange(30) * np.pi / 3)),
    "hydralisk": _polar(5, 1.05),
    "spine_crawler": _polar(16, np.where(np.arange(16) % 2 == 0, 1.2, 0.72)),
}


def outline(unit: UnitType) -> np.ndarray:
    """The unit's shape [K, 2] in unit radii, facing +x."""
    return SHAPES.get(unit.name, CIRCLE)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The first colour, with that share of the second."""
    r, g, b = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return r, g, b


def health_colour(share: float) -> Colour:
    """From empty (0) to full (1)."""
    empty, half, full = HEALTH
    return mix(empty, half, share * 2) if share < 0.5 else mix(half, full, share * 2 - 1)
