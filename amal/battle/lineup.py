"""Who fights a battle of a family, and where: drawn from the battle's own random stream before it begins."""

from amal.battle.battlefield import FIELD_SIZE, UNIT_GAP
from amal.battle.compilation import kernel
from amal.battle.families import ARMS, MIDDLE
from amal.battle.random_stream import draw_below, draw_share
from amal.battle.rewards import reward_scale
from amal.battle.state import HEAL, KAMIKAZE, Scene


@kernel
def scene_of(scene, lineup, e):  # type: ignore[no-untyped-def]
    """The scene with what is battle e's own."""
    b = min(e, len(lineup.kinds) - 1)
    return Scene(
        lineup.kinds[b],
        lineup.damage[b],
        scene.allies,
        scene.enemies,
        scene.walls,
        scene.ground,
        lineup.attack_points[b, 0],
        lineup.attack_points[b, 1],
        scene.max_radius,
        lineup.reward_scales[b],
        scene.n_actions,
        scene.n_types,
        scene.ally_shields,
        scene.enemy_shields,
        scene.ally_healers,
        scene.episode_limit,
        scene.two,
        scene.sight,
        scene.view_cosine,
        scene.least_delay,
        scene.n_delays,
        lineup.facing[min(e, len(lineup.facing) - 1)],
    )


@kernel(inline=False)
def draw_lineup(battle, scene, lineup, e):  # type: ignore[no-untyped-def]
    """Draws the units of battle e and where they start. Ally i and enemy i are of the same type. A team that has
    nothing but healers and kamikazes is drawn again."""
    pairs = lineup.pair_types.shape[1]
    shared = min(len(scene.allies), len(scene.enemies))
    can_win = False
    while not can_win:
        for i in range(pairs):
            share, k = draw_share(battle), 0
            while k < len(lineup.weights) - 1 and share >= lineup.weights[k]:
                k += 1
            lineup.pair_types[e, i] = k
            weapon = lineup.types[k].weapon
            can_win |= i < shared and weapon != HEAL and weapon != KAMIKAZE
    if draw_share(battle) < lineup.surrounded:
        surround(battle, scene, lineup, e)
    else:
        reflect(battle, scene, lineup, e)
    complete_lineup(scene, lineup, e)


@kernel
def reflect(battle, scene, lineup, e):  # type: ignore[no-untyped-def]
    """Allies anywhere in the left half, enemies where a mirror on the vertical midline shows them."""
    n, m = len(scene.allies), len(scene.enemies)
    starts, more = lineup.starts[e], 0 if n >= m else n  # where the side with more units begins
    for i in range(max(n, m)):
        x, y, free = 0.0, 0.0, False
        while not free:  # families.cells_needed promises room
            cell = draw_below(battle, len(lineup.cells))
            x, y = lineup.cells[cell, 0] + draw_share(battle), lineup.cells[cell, 1] + draw_share(battle)
            here = x if n >= m else FIELD_SIZE - x
            free = True
            for j in range(i):
                apart = (
                    lineup.types[lineup.pair_types[e, i]].radius
                    + lineup.types[lineup.pair_types[e, j]].radius
                    + UNIT_GAP
                )
                dx, dy = here - starts[more + j, 0], y - starts[more + j, 1]
                free &= dx * dx + dy * dy >= apart * apart
        if i < n:
            starts[i, 0], starts[i, 1] = x, y
        if i < m:
            starts[n + i, 0], starts[n + i, 1] = FIELD_SIZE - x, y


@kernel
def surround(battle, scene, lineup, e):  # type: ignore[no-untyped-def]
    """Allies as a block in the middle, enemies as equal blocks at random distances on all four diagonals."""
    n, m = len(scene.allies), len(scene.enemies)
    starts = lineup.starts[e]
    for i in range(n):
        put_in_block(starts, i, i, lineup.block_columns, lineup.pitch, MIDDLE, MIDDLE)
    turn = draw_below(battle, ARMS)
    for arm in range(ARMS):
        offset = lineup.least_offset + draw_share(battle) * (lineup.greatest_offset - lineup.least_offset)
        x = MIDDLE + (offset if arm % 2 == 0 else -offset)
        y = MIDDLE + (offset if arm < 2 else -offset)
        for i in range((arm + turn) % ARMS, m, ARMS):
            put_in_block(starts, n + i, i // ARMS, lineup.arm_columns, lineup.pitch, x, y)


@kernel
def put_in_block(starts, i, place, columns, pitch, x, y):  # type: ignore[no-untyped-def]
    """Starts unit i at a place of a square block around (x, y)."""
    corner = (columns - 1) * pitch / 2
    starts[i, 0], starts[i, 1] = x - corner + place % columns * pitch, y - corner + place // columns * pitch


@kernel(inline=False)
def complete_lineup(scene, lineup, e):  # type: ignore[no-untyped-def]
    """Fills in what follows from the types and starts that were drawn for battle e."""
    n, m = len(scene.allies), len(scene.enemies)
    kinds, drawn, starts = lineup.kinds[e], lineup.pair_types[e], lineup.starts[e]
    health, x, y = 0.0, 0.0, 0.0
    for i in range(n + m):
        kinds[i] = lineup.types[drawn[i if i < n else i - n]]
        kinds[i].side, kinds[i].id_in_side = scene.kinds[i].side, scene.kinds[i].id_in_side
        kinds[i].spawn_x, kinds[i].spawn_y = starts[i, 0], starts[i, 1]
        if i < n:
            x, y = x + starts[i, 0], y + starts[i, 1]
        else:
            health += kinds[i].max_hp + kinds[i].max_shield
        for j in range(n + m):
            lineup.damage[e, i, j] = lineup.type_damage[drawn[i if i < n else i - n], drawn[j if j < n else j - n]]
    lineup.attack_points[e, 0], lineup.attack_points[e, 1] = x / n, y / n
    lineup.reward_scales[e] = reward_scale(m, health)
