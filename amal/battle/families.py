"""Where the units of a family may start. Lengths in cells; the field's centre is (16, 16)."""

from __future__ import annotations

import math

import numpy as np

from amal.battle.battlefield import FIELD_SIZE, UNIT_GAP, Family

ARMS = 4  # the diagonals on which those who surround start
SURROUND_GAP = 4.0  # per axis, between the blocks of the surrounded and of those who surround
MIDDLE = FIELD_SIZE / 2


def pitch(family: Family) -> float:
    """Distance between the centres of neighbours in a block, whatever their types."""
    return 2 * family.radius + UNIT_GAP


def block_columns(units: int) -> int:
    """Units in a row of a square block."""
    return math.ceil(math.sqrt(units))


def block_columns_of_arm(family: Family) -> int:
    return block_columns(math.ceil(family.enemies / ARMS))


def surrounding_offsets(family: Family, ground: np.ndarray) -> tuple[float, float] | None:
    """Least and greatest distance per axis from the field's centre to the centre of a block of enemies on a diagonal;
    None if the terrain leaves no such room."""
    inside = block_columns(family.allies) * pitch(family) / 2
    outside = block_columns_of_arm(family) * pitch(family) / 2
    least = inside + SURROUND_GAP + outside
    middle = slice(math.floor(MIDDLE - inside), math.ceil(MIDDLE + inside))
    if inside > MIDDLE or not ground[middle, middle].all():
        return None
    for edge in range(FIELD_SIZE // 2, 0, -1):
        near = math.floor(least - outside)
        if edge - outside >= least and _corners_are_open(ground, near, edge):
            return least, edge - outside
    return None


def _corners_are_open(ground: np.ndarray, near: int, far: int) -> bool:
    """Whether the squares from ``near`` to ``far`` cells off the centre are open on all four diagonals."""
    half = FIELD_SIZE // 2
    spans = (slice(half + near, half + far), slice(half - far, half - near))
    return all(ground[rows, columns].all() for rows in spans for columns in spans)


def reflected_cells(family: Family, ground: np.ndarray) -> np.ndarray:
    """Cells [C, 2] (x, y) of the left half where a unit's centre may lie, and the enemy's in the cell's mirror image:
    nobody touches a wall, the field's edge or the other half."""
    reach = math.ceil(family.radius)
    walled = np.pad(ground, reach)
    open_around = np.ones_like(ground)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            open_around &= walled[dy : dy + FIELD_SIZE, dx : dx + FIELD_SIZE]
    both = open_around & open_around[:, ::-1]
    both[:, FIELD_SIZE // 2 - reach :] = False
    return np.ascontiguousarray(np.argwhere(both)[:, ::-1], dtype=np.int64)


def cells_needed(family: Family) -> int:
    """With so many cells, a random spot for the last unit is free of others with a chance of more than a fifth."""
    return math.ceil(4 * max(family.allies, family.enemies) * pitch(family) ** 2)
