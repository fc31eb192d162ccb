"""A recorded battle, and what happened between its rows: who fired when and at whom, who died of it, who looked where.

A recording holds one row per unit and step of half a second: units [T+1, U, 9], columns named below. Times count steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from amal.battle.battlefield import Scenario

X, Y, HP, SHIELD, ENERGY, COOLDOWN, ALIVE, TARGET = range(8)  # columns of a recording

STEP_SECONDS = 0.5
TICK = 1 / 8  # in steps
MELEE_RANGE = 1.0  # cells; weapons that reach no further are blades and claws
EPSILON = 1e-6

Kind = Literal["shot", "melee", "laser", "blast", "heal"]
Outcome = Literal["victory", "defeat", "draw"]


@dataclass(frozen=True)
class Attack:
    """One use of a weapon, or a step of healing. ``targets`` are global ids, the one aimed at first."""

    kind: Kind
    time: float
    attacker: int
    targets: tuple[int, ...]


class Recording:
    """A battle that can be drawn.

    Args:
        scenario: with the units that fought.
        units: [T+1, U, 9], columns as above.

    Raises ValueError if units are not those of such a battle.
    """

    def __init__(self, scenario: Scenario, units: np.ndarray) -> None:
        if units.ndim != 3 or len(units) < 2 or units.shape[1] != len(scenario.units):
            raise ValueError(
                f"{scenario.name}: expected a recording [T+1, {len(scenario.units)}, 9] of at least one step, "
                f"got {list(units.shape)}"
            )
        self.scenario, self.types = scenario, scenario.units
        self.units = np.asarray(units, dtype=np.float64)
        self.steps = len(units) - 1
        self.teams = np.array([int(side == "enemy") for side in scenario.sides])  # [U], 0 for allies, 1 for enemies
        self.attacks = find_attacks(scenario, self.units)
        self.deaths = times_of_death(self.units, self.attacks)  # [U], inf: never
        self.headings = headings(scenario, self.units, self.attacks)  # [T+1, U] radians

    @property
    def outcome(self) -> Outcome:
        """How it ended for the allies."""
        allies, enemies = (bool((self.units[-1, self.teams == team, ALIVE] > 0).any()) for team in (0, 1))
        return "victory" if not enemies else "draw" if allies else "defeat"


def find_attacks(scenario: Scenario, units: np.ndarray) -> list[Attack]:
    """All attacks and healing in units [T+1, U, 9], in order of time."""
    attacks = []
    for t in range(len(units) - 1):
        for attacker in np.flatnonzero(units[t, :, ALIVE] > 0):
            attack = _find_attack(scenario, units[t], units[t + 1], t, int(attacker))
            if attack is not None:
                attacks.append(attack)
    return sorted(attacks, key=lambda attack: attack.time)


def _find_attack(scenario: Scenario, before: np.ndarray, after: np.ndarray, t: int, attacker: int) -> Attack | None:
    """The attacker's attack between two rows [U, 9], if any; the last one of a weapon that fires twice in it."""
    types, sides = scenario.units, np.array(scenario.sides)
    unit, foes = types[attacker], sides != sides[attacker]
    hurt = (before[:, ALIVE] > 0) & (after[:, HP] + after[:, SHIELD] < before[:, HP] + before[:, SHIELD] - EPSILON)
    reach = np.hypot(*(after[:, :2] - after[attacker, :2]).T) - np.array([u.radius for u in types])
    aimed_at = [int(row[attacker, TARGET]) for row in (after, before) if row[attacker, TARGET] >= 0]
    if unit.weapon == "heal":
        heals = aimed_at and after[attacker, ENERGY] < before[attacker, ENERGY] - EPSILON
        return Attack("heal", t, attacker, (aimed_at[0],)) if heals else None
    if unit.weapon == "kamikaze":
        exploded = after[attacker, ALIVE] == 0 and after[attacker, COOLDOWN] > before[attacker, COOLDOWN] + EPSILON
        targets = np.flatnonzero(foes & hurt & (reach <= unit.blast_radius + MELEE_RANGE))
        return Attack("blast", t + 0.5, attacker, tuple(targets.tolist())) if exploded else None
    time = _time_fired(unit.cooldown, before[attacker], after[attacker], t)
    # A target that died within the step is no longer written down; the nearest dead stands in for it.
    died = np.flatnonzero(foes & hurt & (after[:, ALIVE] == 0) & (reach <= unit.attack_range + unit.radius + 1))
    candidates = aimed_at + died[np.argsort(reach[died])].tolist()
    if time is None or not candidates:
        return None
    target = next((v for v in candidates if hurt[v]), candidates[0])
    if unit.weapon == "laser":
        beside = np.hypot(*(after[:, :2] - after[target, :2]).T) <= math.hypot(unit.beam_width, unit.beam_length) / 2
        others = np.flatnonzero(foes & hurt & beside).tolist()
        return Attack("laser", time, attacker, (target, *(v for v in others if v != target)))
    return Attack("melee" if unit.attack_range <= MELEE_RANGE else "shot", time, attacker, (target,))


def _time_fired(cooldown: float, before: np.ndarray, after: np.ndarray, t: int) -> float | None:
    """When in step t a weapon fired, by the unit's two rows [9]. The cooldown has run down since; the dead's stands.

    The time is off by the shot's random delay, if there is one: a recording does not tell it."""
    rest = before[COOLDOWN] if after[ALIVE] == 0 else max(before[COOLDOWN] - STEP_SECONDS, 0.0)
    if after[COOLDOWN] <= rest + EPSILON:
        return None
    since = (cooldown - after[COOLDOWN]) / STEP_SECONDS + TICK
    return t + 1 - min(max(since, TICK), 1.0)


def times_of_death(units: np.ndarray, attacks: list[Attack]) -> np.ndarray:
    """When each unit died, [U] (inf: never): with the last attack at it in its last step, else at that step's end."""
    alive = units[..., ALIVE] > 0
    death = np.where(alive[-1], np.inf, (~alive).argmax(axis=0).astype(np.float64))
    last_hit = np.full(len(death), np.nan)
    for attack in attacks:
        for unit in (*attack.targets, attack.attacker) if attack.kind == "blast" else attack.targets:
            if attack.kind != "heal" and death[unit] - 1 <= attack.time < death[unit]:
                last_hit[unit] = attack.time
    return np.where(np.isnan(last_hit), death, last_hit)


def headings(scenario: Scenario, units: np.ndarray, attacks: list[Attack]) -> np.ndarray:
    """Where each unit looks at each row, [T+1, U] radians: at its target, else where it walks, else as before."""
    aim = np.full(units.shape[:2], np.nan)
    for attack in attacks:
        if attack.kind != "blast":
            t = int(attack.time) + 1
            dx, dy = units[t, attack.targets[0], :2] - units[t, attack.attacker, :2]
            aim[t, attack.attacker] = math.atan2(dy, dx)
    sides = np.array(scenario.sides)
    for side in ("ally", "enemy"):
        dx, dy = (units[0, sides != side, :2].mean(axis=0) - units[0, sides == side, :2]).T
        aim[0, sides == side] = np.arctan2(dy, dx)
    heading = aim.copy()
    for t in range(1, len(units)):
        dx, dy = (units[t, :, :2] - units[t - 1, :, :2]).T
        onward = np.where(np.hypot(dx, dy) > 0.08, np.arctan2(dy, dx), heading[t - 1])  # less is being pushed aside
        heading[t] = np.where(np.isnan(aim[t]), onward, aim[t])
    return heading
