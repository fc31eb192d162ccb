"""The data the kernels work on: one record per unit and one per battle, and the scenario's constants as arrays.

A record per unit (not an array per attribute) keeps a battle in a few cache lines and gives every kernel the same
signature whatever the scenario, so that numba compiles each kernel once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from amal.battle import families
from amal.battle.battlefield import FULL_TURN, TICK, Scenario, UnitType, place
from amal.battle.rewards import reward_scale
from amal.battle.scenario import wall_rectangles

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
    + [(name, np.float64) for name in ("armor", "hp_regen", "scan_range", "attack_range")]
    + [("cooldown", np.float64), ("max_cooldown", np.float64)]  # s after a shot, without a delay and at most
    + [(name, np.float64) for name in ("blast_radius", "beam_width", "beam_length", "spawn_x", "spawn_y")],
    align=True,
)

BATTLE = np.dtype(
    [("random_state", np.uint64), ("step", np.int64), ("over", np.bool_)],
    align=True,
)


class Scene(NamedTuple):
    """What holds throughout a battle. U units, N allies, M enemies, W wall rectangles."""

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
    two: np.ndarray  # [2.0], see avoidance.rounded_square
    sight: float  # cells
    view_cosine: float  # of half the angle that agents see; -1 if they see all around
    least_delay: int  # ticks, of the random delay of a shot
    n_delays: int  # so many are possible, from the least one up; 0 if shots have none
    facing: np.ndarray  # [N, 2] where each agent looks, of length 1; [0, 2] if they see all around


class Lineup(NamedTuple):
    """What battles have of their own in their scenes, and what it is drawn from.

    B is the number of battles, or 1 if all are alike for having no family, which also leaves the rest empty: K types,
    P = max(N, M) pairs of an ally and an enemy of the same type."""

    kinds: np.ndarray  # [B, U] KIND
    damage: np.ndarray  # [B, U, U]
    attack_points: np.ndarray  # [B, 2]
    reward_scales: np.ndarray  # [B]
    facing: np.ndarray  # [E, N, 2], or [1, 0, 2] if agents see all around
    pair_types: np.ndarray  # [B, P] int64, index of each pair's type
    starts: np.ndarray  # [B, U, 2]
    types: np.ndarray  # [K] KIND
    type_damage: np.ndarray  # [K, K]
    weights: np.ndarray  # [K] cumulative
    surrounded: float  # share of battles
    cells: np.ndarray  # [C, 2] int64, see families.reflected_cells
    pitch: float
    block_columns: int
    arm_columns: int
    least_offset: float  # see families.surrounding_offsets
    greatest_offset: float


class Scratch(NamedTuple):
    """Working memory of the kernels, for each of C chunks of battles that may run at the same time."""

    lines: np.ndarray  # [C, L, 4] half-planes of permitted velocities
    projected: np.ndarray  # [C, L, 4]
    turns: np.ndarray  # [C, U] order in which units act
    places: np.ndarray  # [C, 2, U] x and y, side by side to be compared quickly
    planes: np.ndarray  # [C, U] int64, of the living; 0 of the dead
    near: np.ndarray  # [C, U] bool, who may be a neighbour


def build_scratch(scene: Scene, chunks: int) -> Scratch:
    n_units = len(scene.kinds)
    n_lines = n_units + 4 * len(scene.walls)
    return Scratch(
        lines=np.zeros((chunks, n_lines, 4)),
        projected=np.zeros((chunks, n_lines, 4)),
        turns=np.zeros((chunks, n_units), np.int64),
        places=np.zeros((chunks, 2, n_units)),
        planes=np.zeros((chunks, n_units), np.int64),
        near=np.zeros((chunks, n_units), np.bool_),
    )


def build_scene(scenario: Scenario, episode_limit: int) -> Scene:
    """The scene of all battles. With a family, its kinds have no more than sides and ids; see build_lineup."""
    sides = scenario.sides
    kinds = np.zeros(len(sides), KIND)
    damage = np.zeros((len(sides), len(sides)))
    if scenario.family is None:
        kinds = _kinds(scenario.units, scenario)
        kinds["spawn_x"], kinds["spawn_y"] = place(scenario).T
        damage = _damage(scenario.units)
    for side, number in _SIDES.items():
        members = [i for i, s in enumerate(sides) if s == side]
        kinds["side"][members], kinds["id_in_side"][members] = number, range(len(members))
    enemies = np.flatnonzero(kinds["side"] == ENEMY)
    health = kinds["max_hp"][enemies].sum() + kinds["max_shield"][enemies].sum()
    possible = scenario.types("ally") + scenario.types("enemy")
    least, n_delays = 0, 0
    if scenario.random_delay is not None:
        least, n_delays = scenario.random_delay[0], scenario.random_delay[1] - scenario.random_delay[0] + 1
    return Scene(
        kinds=kinds.view(np.recarray),
        damage=damage,
        allies=np.flatnonzero(kinds["side"] == ALLY),
        enemies=enemies,
        walls=wall_rectangles(scenario.ground),
        ground=np.ascontiguousarray(scenario.ground),
        attack_x=float(scenario.attack_point[0]),
        attack_y=float(scenario.attack_point[1]),
        max_radius=max(unit.radius for unit in possible),
        reward_scale=float(reward_scale(len(enemies), health)),
        n_actions=scenario.n_actions,
        n_types=len(scenario.type_names),
        ally_shields=scenario.has_shields("ally"),
        enemy_shields=scenario.has_shields("enemy"),
        ally_healers=any(unit.weapon == "heal" for unit in scenario.types("ally")),
        episode_limit=episode_limit,
        two=np.full(1, 2.0),
        sight=scenario.sight,
        view_cosine=math.cos(math.radians(scenario.view_angle / 2)) if scenario.view_angle < FULL_TURN else -1.0,
        least_delay=least,
        n_delays=n_delays,
        facing=np.zeros((0, 2)),
    )


def build_lineup(scenario: Scenario, scene: Scene, num_battles: int) -> Lineup:
    family, agents = scenario.family, len(scene.allies) if scenario.view_angle < FULL_TURN else 0
    facing = np.zeros((num_battles if agents else 1, agents, 2))
    if family is None:
        return Lineup(
            kinds=scene.kinds[None],
            damage=scene.damage[None],
            attack_points=np.array([[scene.attack_x, scene.attack_y]]),
            reward_scales=np.array([scene.reward_scale]),
            facing=facing,
            pair_types=np.zeros((0, 0), np.int64),
            starts=np.zeros((0, 0, 2)),
            types=np.zeros(0, KIND).view(np.recarray),
            type_damage=np.zeros((0, 0)),
            weights=np.zeros(0),
            surrounded=0.0,
            cells=np.zeros((0, 2), np.int64),
            pitch=0.0,
            block_columns=0,
            arm_columns=0,
            least_offset=0.0,
            greatest_offset=0.0,
        )
    n_units = len(scene.kinds)
    least, greatest = families.surrounding_offsets(family, scenario.ground) or (0.0, 0.0)
    return Lineup(
        kinds=np.zeros((num_battles, n_units), KIND).view(np.recarray),
        damage=np.zeros((num_battles, n_units, n_units)),
        attack_points=np.zeros((num_battles, 2)),
        reward_scales=np.zeros(num_battles),
        facing=facing,
        pair_types=np.zeros((num_battles, max(family.allies, family.enemies)), np.int64),
        starts=np.zeros((num_battles, n_units, 2)),
        types=_kinds(family.types, scenario).view(np.recarray),
        type_damage=_damage(family.types),
        weights=np.cumsum(family.weights),
        surrounded=family.surrounded,
        cells=families.reflected_cells(family, scenario.ground),
        pitch=families.pitch(family),
        block_columns=families.block_columns(family.allies),
        arm_columns=families.block_columns_of_arm(family),
        least_offset=least,
        greatest_offset=greatest,
    )


def _kinds(units: Sequence[UnitType], scenario: Scenario) -> np.ndarray:
    """[len(units)] KIND without side, id and place."""
    kinds = np.zeros(len(units), KIND)
    most_delay = 0 if scenario.random_delay is None else scenario.random_delay[1]
    for kind, unit in zip(kinds, units, strict=True):
        kind["plane"] = _PLANES[unit.plane]
        kind["targets"] = sum(_PLANES[plane] for plane in set(unit.targets))
        kind["weapon"] = _WEAPONS[unit.weapon]
        kind["type_index"] = scenario.type_names.index(unit.name) if scenario.type_names else 0
        kind["max_hp"], kind["max_shield"], kind["max_energy"] = unit.hp, unit.shield, unit.energy
        kind["start_energy"] = unit.starting_energy
        for name in ("attacks", "radius", "speed", "armor", "hp_regen", "scan_range", "attack_range", "cooldown"):
            kind[name] = getattr(unit, name)
        if unit.cooldown > 0.0:
            kind["max_cooldown"] = max(unit.cooldown + most_delay * TICK, 0.0)
        for name in ("blast_radius", "beam_width", "beam_length"):
            kind[name] = getattr(unit, name)
    return kinds


def _damage(units: Sequence[UnitType]) -> np.ndarray:
    """[len(units), len(units)] of one attack of row on column."""
    return np.array([[unit.damage_to(other) for other in units] for unit in units])
