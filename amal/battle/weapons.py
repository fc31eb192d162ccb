"""What a unit does to its target when it fires. Every function returns the tick's reward in unscaled points."""

import math

from amal.battle.compilation import kernel
from amal.battle.rewards import KILL_REWARD
from amal.battle.state import ENEMY, HEAL, KAMIKAZE, LASER, NOBODY

SHIELD_DELAY = 10.0  # s without a hit until shields recharge
HEAL_PER_TICK = 9.0 / 16.0
HEAL_PER_ENERGY = 3.0
ENERGY_TO_START_HEALING = 5.0


@kernel
def fire(units, scene, me, target):  # type: ignore[no-untyped-def]
    """Uses the weapon of unit ``me`` on ``target``, dead or alive."""
    weapon = scene.kinds[me].weapon
    if weapon == HEAL:
        heal(units, scene.kinds, me, target)
        return 0.0
    if weapon == KAMIKAZE:
        return explode(units, scene, me)
    if weapon == LASER:
        return sweep(units, scene, me, target)
    return hit(units, scene, me, target)


@kernel(inline=False)
def hit(units, scene, me, target):  # type: ignore[no-untyped-def]
    """All attacks of one shot on one target: shield first and without armor, the rest less armor on hp."""
    victim, kind = units[target], scene.kinds[target]
    reward = 0.0
    for _ in range(scene.kinds[me].attacks):
        if victim.hp <= 0.0:
            break
        rest = scene.damage[me, target]
        if kind.max_shield > 0.0:
            victim.shield_delay = SHIELD_DELAY
            absorbed = min(victim.shield, rest)
            victim.shield -= absorbed
            rest -= absorbed
            reward += absorbed
        wound = min(max(rest - kind.armor, 0.0), victim.hp)
        victim.hp -= wound
        reward += wound
        if victim.hp <= 0.0:
            reward += KILL_REWARD
    return reward if kind.side == ENEMY else 0.0


@kernel
def explode(units, scene, me):  # type: ignore[no-untyped-def]
    """Kamikaze: the attacker dies and hits every opponent that was and is within the blast."""
    unit, kind = units[me], scene.kinds[me]
    reward = 0.0
    if kind.side == ENEMY:
        reward += unit.hp
    unit.hp = 0.0
    reach = kind.blast_radius + scene.max_radius
    for i in range(len(units)):
        other = units[i]
        if other.hp <= 0.0 or scene.kinds[i].side == kind.side:
            continue
        dx, dy = other.start_x - unit.start_x, other.start_y - unit.start_y
        if math.sqrt(dx * dx + dy * dy) > reach:
            continue
        dx, dy = other.x - unit.x, other.y - unit.y
        if math.sqrt(dx * dx + dy * dy) <= kind.blast_radius + scene.kinds[i].radius:
            reward += hit(units, scene, me, i)
    return reward


@kernel
def sweep(units, scene, me, target):  # type: ignore[no-untyped-def]
    """Laser: hits every opponent that touches a rectangle across the line of fire, centred on the target."""
    unit, kind, centre = units[me], scene.kinds[me], units[target]
    line_x, line_y = centre.x - unit.x, centre.y - unit.y
    length = math.sqrt(line_x * line_x + line_y * line_y)
    if length == 0.0:
        return 0.0
    line_x, line_y = line_x / length, line_y / length
    half_along, half_across = kind.beam_length / 2, kind.beam_width / 2
    reach = math.sqrt(half_along * half_along + half_across * half_across)
    reward = 0.0
    for i in range(len(units)):
        other = units[i]
        if other.hp <= 0.0 or scene.kinds[i].side == kind.side:
            continue
        dx, dy = other.x - centre.x, other.y - centre.y
        if math.sqrt(dx * dx + dy * dy) > reach:
            continue
        along, across = abs(dx * line_x + dy * line_y), abs(dx * line_y - dy * line_x)
        out_x, out_y = max(along - half_along, 0.0), max(across - half_across, 0.0)
        if math.sqrt(out_x * out_x + out_y * out_y) <= scene.kinds[i].radius:
            reward += hit(units, scene, me, i)
    return reward


@kernel
def heal(units, kinds, me, target):  # type: ignore[no-untyped-def]
    """Turns energy into a stock of healing as needed and spends it on the target."""
    unit, patient = units[me], units[target]
    missing = kinds[target].max_hp - patient.hp
    if patient.hp <= 0.0:
        return
    is_new = unit.previous_target != target
    if missing <= 0.0 or (is_new and unit.energy < ENERGY_TO_START_HEALING):
        unit.target = NOBODY
        return
    wanted = min(missing, HEAL_PER_TICK)
    if unit.heal_stock < wanted:
        spent = min(1.0, unit.energy)
        unit.energy -= spent
        unit.heal_stock += spent * HEAL_PER_ENERGY
    healed = min(wanted, unit.heal_stock)
    unit.heal_stock -= healed
    patient.hp += healed
