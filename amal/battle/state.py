"""The data the kernels work on: one record per unit and one per battle, and the scenario's constants as arrays.

A record per unit (not an array per attribute) keeps a battle in a few cache lines and gives every kernel the same
signature whatever the scenario, so that numba compiles each kernel once.
"""

from typing import NamedTuple

import numpy as np

from amal.battle.scenario import Scenario, place, wall_rectangles

ALLY, ENEMY = 0, 1
GROUND, AIR = 1, 2  # bit flags: a unit's targets are a sum of planes
STANDARD, KAMIKAZE, LASER, HEAL = 0, 1, 2, 3
STOP, MOVE, TARGET, ATTACK_MOVE = 0, 1, 2, 3  # orders
NOBODY = -1

_SIDES = {"ally": ALLY, "enemy": ENEMY}
_PLANES = {"ground": GROUND, "air": AIR}
_WEAPONS = {"standard": STANDARD, "kamikaze": KAMIKAZE, "laser": LASER, "heal": HEAL}

UNIT = np.dtype(
    [(name, np.float64) for name in ("x", "y", "vx", "vy", "hp", "shield", "energy", "cooldown", "shield_delay")]
    + [("heal_stock", np.float64)]  # healing already paid for with energy
    + [("goal_x", np.float64), ("goal_y", np.float64)]  # where a MOVE order leads
    + [("walk_x", np.float64), ("walk_y", np.float64)]  # preferred velocity of this tick
    + [("next_vx", np.float64), ("next_vy", np.float64)]  # velocity after avoidance
    + [("start_x", np.float64), ("start_y", np.float64)]  # position before anyone moved in this tick
    + [("order", np.int64), ("order_target", np.int64)]
    + [("target", np.int64), ("previous_target", np.int64)]  # global ids or NOBODY
    + [("shoots_at", np.int64)],  # global id that is within reach in this tick, or NOBODY
    align=True,
)

KIND = np.dtype(
    [("side", np.int64), ("id_in_side", np.int64), ("plane", np.int64), ("targets", np.int64), ("weapon", np.int64)]
    + [("type_index", np.int64), ("attacks", np.int64)]
    + [(name, np.float64) for name in ("radius", "speed", "max_hp", "max_shield", "max_energy", "start_energy")]
    + [(name, np.float64) for name in ("armor", "hp_regen", "scan_range", "attack_range", "cooldown")]
    + [(name, np.float64) for name in ("blast_radius", "beam_width", "beam_length", "spawn_x", "spawn_y")],
    align=True,
)

BATTLE = np.dtype(
    [("random_state", np.uint64), ("step", np.int64), ("over", np.bool_)],
    align=True,
)


class Scene(NamedTuple):
    """A scenario's constants. U units, N allies, M enemies, W wall rectangles."""

    kinds: np.ndarray  # [U] KIND
    damage: np.ndarray  # [U, U] of one attack of row on column, before shield and armor
    allies: np.ndarray  # [N] global ids by id within the side
    enemies: np.ndarray  # [M]
    walls: np.ndarray  # [W, 4] x0, y0, x1, y1
    ground: np.ndarray  # [32, 32] bool, ground[y, x]
    attack_x: float
    attack_y: float
    max_radius: float
    reward_scale: float  # a step's reward is divided by this
    n_actions: int
    n_types: int
    ally_shields: bool
    enemy_shields: bool
    ally_healers: bool
    episode_limit: int
    two: float  # 2.0, see avoidance.rounded_square


class Scratch(NamedTuple):
    """Working memory of the kernels, for each of C chunks of battles that may run at the same time."""

    lines: np.ndarray  # [C, L, 4] half-planes of permitted velocities
    projected: np.ndarray  # [C, L, 4]
    turns: np.ndarray  # [C, U] order in which units act


def build_scratch(scene: Scene, chunks: int) -> Scratch:
    n_units = len(scene.kinds)
    n_lines = n_units + 4 * len(scene.walls)
    return Scratch(
        lines=np.zeros((chunks, n_lines, 4)),
        projected=np.zeros((chunks, n_lines, 4)),
        turns=np.zeros((chunks, n_units), np.int64),
    )


def build_scene(scenario: Scenario, episode_limit: int) -> Scene:
    units, sides = scenario.units, scenario.sides
    kinds = np.zeros(len(units), KIND)
    seen = {"ally": 0, "enemy": 0}
    for kind, unit, side, (x, y) in zip(kinds, units, sides, place(scenario), strict=True):
        kind["side"], kind["id_in_side"] = _SIDES[side], seen[side]
        seen[side] += 1
        kind["plane"] = _PLANES[unit.plane]
        kind["targets"] = sum(_PLANES[plane] for plane in set(unit.targets))
        kind["weapon"] = _WEAPONS[unit.weapon]
        kind["type_index"] = scenario.type_names.index(unit.name) if scenario.type_names else 0
        kind["max_hp"], kind["max_shield"], kind["max_energy"] = unit.hp, unit.shield, unit.energy
        kind["start_energy"] = unit.starting_energy
        kind["spawn_x"], kind["spawn_y"] = x, y
        for name in ("attacks", "radius", "speed", "armor", "hp_regen", "scan_range", "attack_range", "cooldown"):
            kind[name] = getattr(unit, name)
        for name in ("blast_radius", "beam_width", "beam_length"):
            kind[name] = getattr(unit, name)
    enemies = np.flatnonzero(kinds["side"] == ENEMY)
    health = kinds["max_hp"][enemies].sum() + kinds["max_shield"][enemies].sum()
    return Scene(
        kinds=kinds.view(np.recarray),
        damage=np.array([[unit.damage_to(other) for other in units] for unit in units]),
        allies=np.flatnonzero(kinds["side"] == ALLY),
        enemies=enemies,
        walls=wall_rectangles(scenario.ground),
        ground=np.ascontiguousarray(scenario.ground),
        attack_x=float(scenario.attack_point[0]),
        attack_y=float(scenario.attack_point[1]),
        max_radius=float(kinds["radius"].max()),
        reward_scale=float((10 * len(enemies) + 200 + health) / 20),
        n_actions=scenario.n_actions,
        n_types=len(scenario.type_names),
        ally_shields=scenario.has_shields("ally"),
        enemy_shields=scenario.has_shields("enemy"),
        ally_healers=any(unit.weapon == "heal" for unit in scenario.of_side("ally")),
        episode_limit=episode_limit,
        two=2.0,
    )
