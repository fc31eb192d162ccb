"""What agents and critics see: available actions, observations and state, in the order of Scenario.obs_features()
and Scenario.state_features()."""

import math

from amal.battle.battlefield import FIELD_SIZE, MOVE_ACTIONS
from amal.battle.compilation import kernel
from amal.battle.state import HEAL, MOVE, NOBODY

TARGET_DISTANCE = 6.0  # centre to centre
HALF_FIELD = FIELD_SIZE / 2


@kernel(inline=False)
def observe(units, scene, obs, state, available):  # type: ignore[no-untyped-def]
    """Writes obs [N, O], the units' part of state [S] and available actions [N, A]."""
    turn_heads(units, scene)
    for agent in range(len(scene.allies)):
        write_available(units, scene, agent, available[agent])
        write_obs(units, scene, agent, available[agent], obs[agent])
    write_state(units, scene, state)


@kernel
def look_east(scene):  # type: ignore[no-untyped-def]
    """Where agents look before they move."""
    for agent in range(len(scene.facing)):
        scene.facing[agent, 0], scene.facing[agent, 1] = 1.0, 0.0


@kernel
def turn_heads(units, scene):  # type: ignore[no-untyped-def]
    """Agents that do not see all around look at their target, else where they are told to go, else as before."""
    for agent in range(len(scene.facing)):
        unit = units[scene.allies[agent]]
        dx, dy = 0.0, 0.0
        if unit.target != NOBODY:
            dx, dy = units[unit.target].x - unit.x, units[unit.target].y - unit.y
        elif unit.order == MOVE:
            dx, dy = unit.walk_x, unit.walk_y
        length = math.sqrt(dx * dx + dy * dy)
        if length > 0.0:
            scene.facing[agent, 0], scene.facing[agent, 1] = dx / length, dy / length


@kernel
def in_view(scene, agent, dx, dy, distance):  # type: ignore[no-untyped-def]
    """Whether an agent sees a point at (dx, dy) from it."""
    if distance > scene.sight:
        return False
    if len(scene.facing) == 0:
        return True
    return dx * scene.facing[agent, 0] + dy * scene.facing[agent, 1] >= scene.view_cosine * distance


@kernel
def write_available(units, scene, agent, available):  # type: ignore[no-untyped-def]
    me = scene.allies[agent]
    unit = units[me]
    available[:] = False
    if unit.hp <= 0.0:
        available[0] = True
        return
    available[1] = True
    available[2] = is_open(scene.ground, unit.x, unit.y + 1.0)
    available[3] = is_open(scene.ground, unit.x, unit.y - 1.0)
    available[4] = is_open(scene.ground, unit.x + 1.0, unit.y)
    available[5] = is_open(scene.ground, unit.x - 1.0, unit.y)
    heals = scene.kinds[me].weapon == HEAL
    targets = scene.allies if heals else scene.enemies
    for j in range(min(len(targets), scene.n_actions - MOVE_ACTIONS)):
        i = targets[j]
        other = units[i]
        if other.hp <= 0.0 or (heals and scene.kinds[i].weapon == HEAL):
            continue
        dx, dy = other.x - unit.x, other.y - unit.y
        distance = math.sqrt(dx * dx + dy * dy)
        available[MOVE_ACTIONS + j] = distance <= TARGET_DISTANCE and in_view(scene, agent, dx, dy, distance)


@kernel
def is_open(ground, x, y):  # type: ignore[no-untyped-def]
    return 0.0 <= x < FIELD_SIZE and 0.0 <= y < FIELD_SIZE and ground[int(y), int(x)]


@kernel
def write_obs(units, scene, agent, available, obs):  # type: ignore[no-untyped-def]
    me = scene.allies[agent]
    unit, kind = units[me], scene.kinds[me]
    obs[:] = 0.0
    if unit.hp <= 0.0:
        return
    for d in range(4):
        obs[d] = available[2 + d]
    k = 4
    width = 5 + scene.enemy_shields + scene.n_types
    for j in range(len(scene.enemies)):
        i = scene.enemies[j]
        if write_seen(unit, units[i], scene.kinds[i], scene.enemy_shields, scene, agent, obs, k):
            obs[k] = available[MOVE_ACTIONS + j]
        k += width
    width = 5 + scene.ally_shields + scene.n_types
    for j in range(len(scene.allies)):
        if j != agent:
            i = scene.allies[j]
            write_seen(unit, units[i], scene.kinds[i], scene.ally_shields, scene, agent, obs, k)
            k += width
    obs[k] = unit.hp / kind.max_hp
    write_extras(unit, kind, scene.ally_shields, scene.n_types, obs, k + 1)
    if len(scene.facing) > 0:
        obs[len(obs) - 2], obs[len(obs) - 1] = scene.facing[agent, 0], scene.facing[agent, 1]


@kernel
def write_seen(unit, other, kind, shields, scene, agent, obs, k):  # type: ignore[no-untyped-def]
    """Another unit's features from obs[k] on, if it lives and is seen; returns whether it is."""
    if other.hp <= 0.0:
        return False
    dx, dy = other.x - unit.x, other.y - unit.y
    distance = math.sqrt(dx * dx + dy * dy)
    if not in_view(scene, agent, dx, dy, distance):
        return False
    obs[k], obs[k + 1] = 1.0, distance / scene.sight
    obs[k + 2], obs[k + 3] = dx / scene.sight, dy / scene.sight
    obs[k + 4] = other.hp / kind.max_hp
    write_extras(other, kind, shields, scene.n_types, obs, k + 5)
    return True


@kernel
def write_extras(unit, kind, shields, n_types, out, k):  # type: ignore[no-untyped-def]
    """[shield fraction], [type one-hot] from out[k] on."""
    if shields:
        if kind.max_shield > 0.0:
            out[k] = unit.shield / kind.max_shield
        k += 1
    if n_types > 0:
        out[k + kind.type_index] = 1.0


@kernel
def write_state(units, scene, state):  # type: ignore[no-untyped-def]
    """The units' part of the state; the last actions after it are left as they are."""
    k = 0
    sees_a_cone = len(scene.facing) > 0
    width = 4 + scene.ally_shields + scene.n_types + 2 * sees_a_cone
    for agent in range(len(scene.allies)):
        i = scene.allies[agent]
        unit, kind = units[i], scene.kinds[i]
        state[k : k + width] = 0.0
        if unit.hp > 0.0:
            state[k] = unit.hp / kind.max_hp
            if kind.weapon == HEAL:
                state[k + 1] = unit.energy / kind.max_energy
            elif kind.max_cooldown > 0.0:
                state[k + 1] = unit.cooldown / kind.max_cooldown
            state[k + 2], state[k + 3] = (unit.x - HALF_FIELD) / FIELD_SIZE, (unit.y - HALF_FIELD) / FIELD_SIZE
            write_extras(unit, kind, scene.ally_shields, scene.n_types, state, k + 4)
            if sees_a_cone:
                state[k + width - 2], state[k + width - 1] = scene.facing[agent, 0], scene.facing[agent, 1]
        k += width
    width = 3 + scene.enemy_shields + scene.n_types
    for i in scene.enemies:
        unit, kind = units[i], scene.kinds[i]
        state[k : k + width] = 0.0
        if unit.hp > 0.0:
            state[k] = unit.hp / kind.max_hp
            state[k + 1], state[k + 2] = (unit.x - HALF_FIELD) / FIELD_SIZE, (unit.y - HALF_FIELD) / FIELD_SIZE
            write_extras(unit, kind, scene.enemy_shields, scene.n_types, state, k + 3)
        k += width


@kernel
def clear_last_actions(scene, state):  # type: ignore[no-untyped-def]
    """Zeroes the last joint action at the end of the state."""
    state[len(state) - len(scene.allies) * scene.n_actions :] = 0.0


@kernel
def write_last_actions(scene, state, actions):  # type: ignore[no-untyped-def]
    """Sets the one-hots of the last joint action [N] in a cleared state."""
    first = len(state) - len(scene.allies) * scene.n_actions
    for agent in range(len(scene.allies)):
        state[first + agent * scene.n_actions + actions[agent]] = 1.0
