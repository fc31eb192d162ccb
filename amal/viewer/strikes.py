"""What happened between the rows of a recording: who fired when and at whom, who died of it, who looked where.

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

Kind = Literal["tracer", "slash", "laser", "blast", "heal"]


@dataclass(frozen=True)
class Strike:
    """One use of a weapon, or a step of healing. ``victims`` are global ids, the one aimed at first."""

    kind: Kind
    time: float
    attacker: int
    victims: tuple[int, ...]


def find_strikes(scenario: Scenario, units: np.ndarray) -> list[Strike]:
    """Everything that was fired, in order of time."""
    strikes = []
    for t in range(len(units) - 1):
        for attacker in np.flatnonzero(units[t, :, ALIVE] > 0):
            strike = _find_strike(scenario, units[t], units[t + 1], t, int(attacker))
            if strike is not None:
                strikes.append(strike)
    return sorted(strikes, key=lambda strike: strike.time)


def _find_strike(scenario: Scenario, before: np.ndarray, after: np.ndarray, t: int, attacker: int) -> Strike | None:
    """The attacker's strike between two rows [U, 9], if any; no weapon fires twice in a step."""
    types, sides = scenario.units, np.array(scenario.sides)
    unit, foes = types[attacker], sides != sides[attacker]
    hurt = (before[:, ALIVE] > 0) & (after[:, HP] + after[:, SHIELD] < before[:, HP] + before[:, SHIELD] - EPSILON)
    reach = np.hypot(*(after[:, :2] - after[attacker, :2]).T) - np.array([u.radius for u in types])
    aimed_at = [int(row[attacker, TARGET]) for row in (after, before) if row[attacker, TARGET] >= 0]
    if unit.weapon == "heal":
        heals = aimed_at and after[attacker, ENERGY] < before[attacker, ENERGY] - EPSILON
        return Strike("heal", t, attacker, (aimed_at[0],)) if heals else None
    if unit.weapon == "kamikaze":
        exploded = after[attacker, ALIVE] == 0 and after[attacker, COOLDOWN] > before[attacker, COOLDOWN] + EPSILON
        victims = np.flatnonzero(foes & hurt & (reach <= unit.blast_radius + MELEE_RANGE))
        return Strike("blast", t + 0.5, attacker, tuple(victims.tolist())) if exploded else None
    time = _time_fired(unit.cooldown, before[attacker], after[attacker], t)
    # A target that died within the step is no longer written down; the nearest dead stands in for it.
    died = np.flatnonzero(foes & hurt & (after[:, ALIVE] == 0) & (reach <= unit.attack_range + unit.radius + 1))
    candidates = aimed_at + died[np.argsort(reach[died])].tolist()
    if time is None or not candidates:
        return None
    victim = next((v for v in candidates if hurt[v]), candidates[0])
    if unit.weapon == "laser":
        beside = np.hypot(*(after[:, :2] - after[victim, :2]).T) <= math.hypot(unit.beam_width, unit.beam_length) / 2
        others = np.flatnonzero(foes & hurt & beside).tolist()
        return Strike("laser", time, attacker, (victim, *(v for v in others if v != victim)))
    return Strike("slash" if unit.attack_range <= MELEE_RANGE else "tracer", time, attacker, (victim,))


def _time_fired(cooldown: float, before: np.ndarray, after: np.ndarray, t: int) -> float | None:
    """When in step t a weapon fired, by the unit's two rows [9]. The cooldown has run down since; the dead's stands."""
    rest = before[COOLDOWN] if after[ALIVE] == 0 else max(before[COOLDOWN] - STEP_SECONDS, 0.0)
    if after[COOLDOWN] <= rest + EPSILON:
        return None
    since = (cooldown - after[COOLDOWN]) / STEP_SECONDS + TICK
    return t + 1 - min(max(since, TICK), 1.0)


def times_of_death(units: np.ndarray, strikes: list[Strike]) -> np.ndarray:
    """When each unit died, [U] (inf: never): with the last strike at it in its last step, else at that step's end."""
    alive = units[..., ALIVE] > 0
    death = np.where(alive[-1], np.inf, (~alive).argmax(axis=0).astype(np.float64))
    last_hit = np.full(len(death), np.nan)
    for strike in strikes:
        for unit in (*strike.victims, strike.attacker) if strike.kind == "blast" else strike.victims:
            if strike.kind != "heal" and death[unit] - 1 <= strike.time < death[unit]:
                last_hit[unit] = strike.time
    return np.where(np.isnan(last_hit), death, last_hit)


def headings(scenario: Scenario, units: np.ndarray, strikes: list[Strike]) -> np.ndarray:
    """Where each unit looks at each row, [T+1, U] radians: at its victim, else where it walks, else as before."""
    aim = np.full(units.shape[:2], np.nan)
    for strike in strikes:
        if strike.kind != "blast":
            t = int(strike.time) + 1
            dx, dy = units[t, strike.victims[0], :2] - units[t, strike.attacker, :2]
            aim[t, strike.attacker] = math.atan2(dy, dx)
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
