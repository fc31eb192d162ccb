"""The battle's course: one tick (1/16 s) as named stages, and the eight ticks of an environment step."""

import math

from amal.battle.avoidance import avoid, take_places
from amal.battle.battlefield import MOVE_ACTIONS, TICK
from amal.battle.compilation import kernel
from amal.battle.random_stream import below, draw_below, next_random
from amal.battle.rewards import VICTORY_REWARD
from amal.battle.state import ALLY, ATTACK_MOVE, HEAL, MOVE, NOBODY, STOP, TARGET
from amal.battle.weapons import fire

TICKS_PER_STEP = 8
MOVE_DISTANCE = 2.0
SHIELD_REGEN = 2.0  # per second
ENERGY_REGEN = 0.5625
ATTACKER_DISTANCE = 2e9  # rank of a unit that is out of range but shoots at the one who chooses


@kernel
def place_units(units, battle, scene, positions):  # type: ignore[no-untyped-def]
    """Starts a battle: units [U] at positions [U, 2], or where the scenario puts them if positions is empty."""
    battle.step, battle.over = 0, False
    for i in range(len(units)):
        unit, kind = units[i], scene.kinds[i]
        if len(positions) > 0:
            unit.x, unit.y = positions[i, 0], positions[i, 1]
        else:
            unit.x, unit.y = kind.spawn_x, kind.spawn_y
        unit.vx, unit.vy = 0.0, 0.0
        unit.hp, unit.shield, unit.energy = kind.max_hp, kind.max_shield, kind.start_energy
        unit.cooldown, unit.shield_delay, unit.heal_stock = 0.0, 0.0, 0.0
        unit.order = STOP if kind.side == ALLY else ATTACK_MOVE
        unit.order_target, unit.target, unit.previous_target = NOBODY, NOBODY, NOBODY


@kernel
def give_orders(units, scene, actions):  # type: ignore[no-untyped-def]
    """Turns the agents' actions [N] into orders that last until the next step."""
    for agent in range(len(scene.allies)):
        me = scene.allies[agent]
        unit, action = units[me], actions[agent]
        if action < 2:
            unit.order = STOP
        elif action < MOVE_ACTIONS:
            unit.order = MOVE
            unit.goal_x = unit.x + (MOVE_DISTANCE if action == 4 else -MOVE_DISTANCE if action == 5 else 0.0)
            unit.goal_y = unit.y + (MOVE_DISTANCE if action == 2 else -MOVE_DISTANCE if action == 3 else 0.0)
        else:
            unit.order = TARGET
            index = action - MOVE_ACTIONS
            unit.order_target = scene.allies[index] if scene.kinds[me].weapon == HEAL else scene.enemies[index]


@kernel
def tick(units, battle, scene, lines, projected, turns, crowd, shuffle):  # type: ignore[no-untyped-def]
    """One tick; returns its reward in unscaled points."""
    update_targets(units, scene)
    choose_actions(units, scene)
    take_places(units, scene, crowd)
    for i in range(len(units)):
        if units[i].hp > 0.0:
            avoid(units, scene, i, lines, projected, crowd)
            units[i].start_x, units[i].start_y = units[i].x, units[i].y
    if shuffle:
        shuffle_turns(turns, battle)
    reward = 0.0
    for i in turns:
        if units[i].hp > 0.0:
            reward += act(units, battle, scene, i)
    return reward


@kernel
def distance_between(a, b):  # type: ignore[no-untyped-def]
    dx, dy = b.x - a.x, b.y - a.y
    return math.sqrt(dx * dx + dy * dy)


@kernel
def in_reach(units, kinds, me, target):  # type: ignore[no-untyped-def]
    """Whether the target, dead or alive, is within attack range of rim to rim, on a plane that can be attacked."""
    if kinds[me].targets & kinds[target].plane == 0:
        return False
    reach = kinds[me].attack_range + kinds[me].radius + kinds[target].radius
    return distance_between(units[me], units[target]) <= reach


@kernel
def update_targets(units, scene):  # type: ignore[no-untyped-def]
    """Stage a: drops targets that are dead or, for an attacking enemy, out of range and not fighting back."""
    for i in range(len(units)):
        unit = units[i]
        if unit.hp <= 0.0:
            continue
        unit.previous_target = unit.target
        if unit.order == TARGET:
            unit.target = unit.order_target if units[unit.order_target].hp > 0.0 else NOBODY
        elif unit.order != ATTACK_MOVE:
            unit.target = NOBODY
        elif unit.target != NOBODY:
            target = units[unit.target]
            keeps = target.hp > 0.0 and (target.target == i or in_reach(units, scene.kinds, i, unit.target))
            if not keeps:
                unit.target = NOBODY


@kernel
def choose_actions(units, scene):  # type: ignore[no-untyped-def]
    """Stages b to e: enemies choose targets, then every unit its preferred velocity or whom to shoot at."""
    kinds = scene.kinds
    healer_lives = False
    if scene.ally_healers:
        for i in scene.allies:
            healer_lives |= kinds[i].weapon == HEAL and units[i].hp > 0.0
    for i in range(len(units)):
        unit = units[i]
        if unit.hp <= 0.0:
            continue
        speed, aim = kinds[i].speed, NOBODY
        if unit.order == ATTACK_MOVE:
            if kinds[i].weapon == HEAL:
                if unit.target == NOBODY:
                    unit.target, speed = choose_patient(units, scene, i)
            elif unit.target == NOBODY:
                unit.target = choose_victim(units, scene, i, True)
            elif healer_lives and kinds[unit.target].weapon != HEAL:
                better = choose_victim(units, scene, i, False)
                unit.target = better if better != NOBODY else unit.target
            aim = unit.target
        elif unit.order == TARGET:
            aim = unit.order_target
        unit.walk_x, unit.walk_y, unit.shoots_at = 0.0, 0.0, NOBODY
        if aim != NOBODY:
            if in_reach(units, kinds, i, aim):
                unit.shoots_at = aim
            else:
                walk_to(unit, units[aim].x, units[aim].y, speed)
        elif unit.order == ATTACK_MOVE:
            walk_to(unit, scene.attack_x, scene.attack_y, speed)
        elif unit.order == MOVE:
            walk_to(unit, unit.goal_x, unit.goal_y, speed)


@kernel
def walk_to(unit, x, y, speed):  # type: ignore[no-untyped-def]
    """Sets the preferred velocity: full speed towards a point."""
    dx, dy = x - unit.x, y - unit.y
    distance = math.sqrt(dx * dx + dy * dy)
    if distance > 0.0:
        unit.walk_x, unit.walk_y = dx * speed / distance, dy * speed / distance


@kernel
def choose_victim(units, scene, me, attackers_from_afar):  # type: ignore[no-untyped-def]
    """The ally that a fighting enemy takes: healers first, then the nearest, then the first; NOBODY if none is near.

    An ally that shoots at it from out of range counts as very far away, if ``attackers_from_afar``."""
    unit, kind, kinds = units[me], scene.kinds[me], scene.kinds
    best, best_rank, best_distance = NOBODY, 2, math.inf
    reach = kind.scan_range + scene.max_radius
    for i in scene.allies:
        other = units[i]
        if other.hp <= 0.0 or kind.targets & kinds[i].plane == 0:
            continue
        dx, dy = abs(other.x - unit.x), abs(other.y - unit.y)
        if dx > reach or dy > reach:
            continue
        distance = math.sqrt(dx * dx + dy * dy)
        if distance > reach or (distance >= kind.scan_range + kinds[i].radius and other.target != me):
            continue
        rank = 0 if kinds[i].weapon == HEAL else 1
        if rank < best_rank or (rank == best_rank and distance < best_distance):
            best, best_rank, best_distance = i, rank, distance
    if attackers_from_afar:
        for i in scene.allies:
            if units[i].hp > 0.0 and units[i].target == me and kind.targets & kinds[i].plane != 0:
                rank = 0 if kinds[i].weapon == HEAL else 1
                if rank < best_rank or (rank == best_rank and best_distance > ATTACKER_DISTANCE):
                    best, best_rank, best_distance = i, rank, ATTACKER_DISTANCE
    return best


@kernel
def choose_patient(units, scene, me):  # type: ignore[no-untyped-def]
    """(patient, speed) of an enemy healer: the unit of its side with the least hp that is hurt or fighting.

    It walks no faster than the slowest unit it scanned."""
    unit, kind, kinds = units[me], scene.kinds[me], scene.kinds
    best, best_hp, speed = NOBODY, math.inf, kind.speed
    for i in scene.enemies:
        other = units[i]
        if i == me or other.hp <= 0.0 or kind.targets & kinds[i].plane == 0:
            continue
        distance = distance_between(unit, other)
        if distance > kind.scan_range + scene.max_radius:
            continue
        speed = min(speed, kinds[i].speed)
        busy = other.hp < kinds[i].max_hp or other.target != NOBODY
        if busy and distance < kind.scan_range + kinds[i].radius and other.hp < best_hp:
            best, best_hp = i, other.hp
    return best, speed


@kernel
def shuffle_turns(turns, battle):  # type: ignore[no-untyped-def]
    """Draws the order in which units act (Fisher-Yates)."""
    state = battle.random_state
    for i in range(len(turns) - 1, 0, -1):
        state, bits = next_random(state)
        j = below(bits, i + 1)
        turns[i], turns[j] = turns[j], turns[i]
    battle.random_state = state


@kernel
def cooldown_of_shot(battle, scene, kind):  # type: ignore[no-untyped-def]
    """Seconds until the next shot, with the random delay that the battle draws for this one.

    What would be below 0 is 0: a unit fires once a tick at most. Without a cooldown there is nothing to delay."""
    if scene.n_delays == 0 or kind.cooldown == 0.0:
        return kind.cooldown
    delay = scene.least_delay + draw_below(battle, scene.n_delays)
    return max(kind.cooldown + delay * TICK, 0.0)


@kernel
def act(units, battle, scene, me):  # type: ignore[no-untyped-def]
    """Stage g for one unit: move, recover, fire; returns the reward in unscaled points."""
    unit, kind = units[me], scene.kinds[me]
    unit.vx, unit.vy = unit.next_vx, unit.next_vy
    unit.x += unit.vx * TICK
    unit.y += unit.vy * TICK
    unit.cooldown = max(unit.cooldown - TICK, 0.0)
    unit.shield_delay = max(unit.shield_delay - TICK, 0.0)
    recharged = SHIELD_REGEN * TICK if unit.shield_delay == 0.0 else 0.0
    unit.shield = min(unit.shield + recharged, kind.max_shield)
    unit.energy = min(unit.energy + ENERGY_REGEN * TICK, kind.max_energy)
    unit.hp = min(unit.hp + kind.hp_regen * TICK, kind.max_hp)
    if unit.shoots_at == NOBODY or unit.cooldown > 0.0:
        return 0.0
    unit.cooldown = cooldown_of_shot(battle, scene, kind)
    return fire(units, scene, me, unit.shoots_at)


@kernel
def anyone_lives(units, members):  # type: ignore[no-untyped-def]
    for i in members:
        if units[i].hp > 0.0:
            return True
    return False


@kernel
def fight(units, battle, scene, actions, shuffle, scratch):  # type: ignore[no-untyped-def]
    """One environment step of a running battle; returns the team's reward."""
    lines, projected, turns, crowd = scratch
    for i in range(len(units)):
        turns[i] = i
    give_orders(units, scene, actions)
    reward = 0.0
    for _ in range(TICKS_PER_STEP):
        reward += tick(units, battle, scene, lines, projected, turns, crowd, shuffle)
    battle.step += 1
    if not anyone_lives(units, scene.enemies):
        reward += VICTORY_REWARD
    return reward / scene.reward_scale
