"""Collision avoidance: ORCA (van den Berg, Guy, Lin, Manocha 2011, "Reciprocal n-body collision avoidance").

A unit's permitted velocities are half-planes, one per neighbour and per wall edge, each a row (px, py, dx, dy) of
``lines``: the velocities to the left of the directed line through p along d. The new velocity is the permitted one
closest to the preferred one. The order of operations is that of the recordings; ties hang on it.
"""

import math

from amal.battle.compilation import kernel
from amal.battle.state import GROUND

EPSILON = 1e-5
TIME_HORIZON = 1.0  # s, for units and walls; 1 / TIME_HORIZON is left out of the formulas
TICKS_PER_SECOND = 16.0
SPLITTER = 2.0**27 + 1.0  # splits a number into halves whose products are exact


@kernel
def take_places(units, scene, crowd):  # type: ignore[no-untyped-def]
    """Notes where everyone is, once for all who avoid them in a tick."""
    places, planes, _ = crowd
    for i in range(len(units)):
        places[0, i], places[1, i] = units[i].x, units[i].y
        planes[i] = scene.kinds[i].plane if units[i].hp > 0.0 else 0


@kernel
def avoid(units, scene, me, lines, projected, crowd):  # type: ignore[no-untyped-def]
    """Sets next_vx, next_vy of unit ``me`` from its walk_x, walk_y."""
    unit = units[me]
    unit.next_vx, unit.next_vy = 0.0, 0.0
    if unit.walk_x == 0.0 and unit.walk_y == 0.0:
        return
    kind = scene.kinds[me]
    n_walls = add_wall_lines(unit, kind, scene.walls, lines) if kind.plane == GROUND else 0
    n_lines = add_unit_lines(units, scene, me, crowd, lines, n_walls)
    failed, vx, vy = closest_velocity(lines, n_lines, kind.speed, unit.walk_x, unit.walk_y, False, scene.two)
    if failed < n_lines:
        vx, vy = least_violation(lines, n_lines, n_walls, failed, kind.speed, vx, vy, projected, scene.two)
    unit.next_vx, unit.next_vy = vx, vy


@kernel
def find_neighbours(crowd, me, plane, reach):  # type: ignore[no-untyped-def]
    """Who else of the plane is within reach, found without a branch, so that the processor compares several at once."""
    places, planes, near = crowd
    x, y = places[0], places[1]
    for i in range(len(near)):
        dx, dy = x[i] - x[me], y[i] - y[me]
        in_box = (abs(dx) <= reach) & (abs(dy) <= reach)
        near[i] = in_box & (dx * dx + dy * dy <= reach * reach) & (planes[i] == plane)
    near[me] = False


@kernel
def add_unit_lines(units, scene, me, crowd, lines, n):  # type: ignore[no-untyped-def]
    """One line per neighbour of the same plane, in id order; returns the new number of lines."""
    unit, kinds = units[me], scene.kinds
    kind = kinds[me]
    find_neighbours(crowd, me, kind.plane, scene.max_radius + kind.radius)
    _, _, near = crowd
    for i in range(len(units)):
        if not near[i]:
            continue
        other = units[i]
        dx, dy = other.x - unit.x, other.y - unit.y
        squared_distance = rounded_square(math.sqrt(dx * dx + dy * dy), scene.two)
        share = 0.5 if other.walk_x != 0.0 or other.walk_y != 0.0 else 1.0
        ux, uy, direction_x, direction_y = pair_correction(
            dx, dy, squared_distance, unit.vx - other.vx, unit.vy - other.vy, kind.radius + kinds[i].radius
        )
        lines[n, 0], lines[n, 1] = unit.vx + share * ux, unit.vy + share * uy
        lines[n, 2], lines[n, 3] = direction_x, direction_y
        n += 1
    return n


@kernel
def pair_correction(dx, dy, squared, vx, vy, radius):  # type: ignore[no-untyped-def]
    """The smallest change (ux, uy) of relative velocity v that avoids a disc of ``radius`` at (dx, dy), and the
    direction of the permitted half-plane's border (section 4 of the paper)."""
    if squared > radius * radius:
        wx, wy = vx - dx, vy - dy
        w_squared = wx * wx + wy * wy
        along = wx * dx + wy * dy
        if along < 0.0 and along * along > radius * radius * w_squared:  # nearest to the cut-off disc
            length = math.sqrt(w_squared)
            wx, wy = wx / length, wy / length
            return (radius - length) * wx, (radius - length) * wy, wy, -wx
        leg = math.sqrt(squared - radius * radius)
        if dx * wy - dy * wx > 0.0:  # nearest to the left leg
            direction_x, direction_y = (dx * leg - dy * radius) / squared, (dx * radius + dy * leg) / squared
        else:
            direction_x, direction_y = -(dx * leg + dy * radius) / squared, -(-dx * radius + dy * leg) / squared
        along = vx * direction_x + vy * direction_y
        return along * direction_x - vx, along * direction_y - vy, direction_x, direction_y
    wx, wy = vx - TICKS_PER_SECOND * dx, vy - TICKS_PER_SECOND * dy  # they overlap: part within one tick
    length = math.sqrt(wx * wx + wy * wy)
    wx, wy = wx / length, wy / length
    return (radius * TICKS_PER_SECOND - length) * wx, (radius * TICKS_PER_SECOND - length) * wy, wy, -wx


@kernel
def add_wall_lines(unit, kind, walls, lines):  # type: ignore[no-untyped-def]
    """Lines of the wall rectangles near a unit, rectangle by rectangle, edge by edge; returns their number."""
    n = 0
    reach = kind.radius + kind.speed
    for w in range(len(walls)):
        x0, y0, x1, y1 = walls[w, 0], walls[w, 1], walls[w, 2], walls[w, 3]
        gap_x, gap_y = max(x0 - unit.x, 0.0, unit.x - x1), max(y0 - unit.y, 0.0, unit.y - y1)
        if gap_x * gap_x + gap_y * gap_y > reach * reach:
            continue
        # counter-clockwise from the lower left corner; an edge counts if the unit is strictly on its right
        if unit.y < y0:
            n = add_edge_line(unit, kind.radius, x0, y0, x1, y0, 1.0, 0.0, lines, n)
        if unit.x > x1:
            n = add_edge_line(unit, kind.radius, x1, y0, x1, y1, 0.0, 1.0, lines, n)
        if unit.y > y1:
            n = add_edge_line(unit, kind.radius, x1, y1, x0, y1, -1.0, 0.0, lines, n)
        if unit.x < x0:
            n = add_edge_line(unit, kind.radius, x0, y1, x0, y0, 0.0, -1.0, lines, n)
    return n


@kernel
def put_line(lines, n, px, py, dx, dy):  # type: ignore[no-untyped-def]
    """Writes line n; returns the new number of lines."""
    lines[n, 0], lines[n, 1], lines[n, 2], lines[n, 3] = px, py, dx, dy
    return n + 1


@kernel
def add_edge_line(unit, radius, ax, ay, bx, by, ex, ey, lines, n):  # type: ignore[no-untyped-def]
    """The line of the wall edge from a to b with unit direction e, if it adds one; returns the new number of lines."""
    ax, ay, bx, by = ax - unit.x, ay - unit.y, bx - unit.x, by - unit.y
    for i in range(n):
        px, py, dx, dy = lines[i, 0], lines[i, 1], lines[i, 2], lines[i, 3]
        covers_a = (ax - px) * dy - (ay - py) * dx - radius >= -EPSILON
        if covers_a and (bx - px) * dy - (by - py) * dx - radius >= -EPSILON:
            return n
    a_squared, b_squared, touching = ax * ax + ay * ay, bx * bx + by * by, radius * radius
    edge_x, edge_y = bx - ax, by - ay
    s = (-ax * edge_x + -ay * edge_y) / (edge_x * edge_x + edge_y * edge_y)
    off_x, off_y = -ax - s * edge_x, -ay - s * edge_y
    near_line = off_x * off_x + off_y * off_y <= touching

    if s < 0.0 and a_squared <= touching:
        length = math.sqrt(a_squared)
        return put_line(lines, n, 0.0, 0.0, -ay / length, ax / length)
    if s > 1.0 and b_squared <= touching:
        if bx * ex + by * ey < 0.0:  # the next edge deals with this corner
            return n
        length = math.sqrt(b_squared)
        return put_line(lines, n, 0.0, 0.0, -by / length, bx / length)
    if s >= 0.0 and s < 1.0 and near_line:
        return put_line(lines, n, 0.0, 0.0, -ex, -ey)

    # Rectangles are convex and counter-clockwise: the next edge leads to the left of e, as does the way back
    # along the previous one. Seen obliquely, an edge is only its nearer corner.
    if s < 0.0 and near_line:
        return add_far_line(unit, radius, ax, ay, ax, ay, True, -ey, ex, ex, ey, ex, ey, lines, n)
    if s > 1.0 and near_line:
        return add_far_line(unit, radius, bx, by, bx, by, True, -ex, -ey, -ey, ex, ex, ey, lines, n)
    return add_far_line(unit, radius, ax, ay, bx, by, False, -ey, ex, -ey, ex, ex, ey, lines, n)


@kernel
def add_far_line(  # type: ignore[no-untyped-def]
    unit, radius, ax, ay, bx, by, is_corner, back_x, back_y, onward_x, onward_y, ex, ey, lines, n
):
    """The line of a wall that is not touched: its velocity obstacle is a cut-off from a to b with a leg at each end.

    A leg that points into the neighbouring edge (``back`` before a, ``onward`` after b) gives way to it, is foreign,
    and adds no line. Returns the new number of lines."""
    a_squared, b_squared = ax * ax + ay * ay, bx * bx + by * by
    a_leg, b_leg = math.sqrt(a_squared - radius * radius), math.sqrt(b_squared - radius * radius)
    left_x, left_y = (ax * a_leg - ay * radius) / a_squared, (ax * radius + ay * a_leg) / a_squared
    right_x, right_y = (bx * b_leg + by * radius) / b_squared, (-bx * radius + by * b_leg) / b_squared
    left_foreign = left_x * back_y - left_y * back_x >= 0.0
    if left_foreign:
        left_x, left_y = back_x, back_y
    right_foreign = right_x * onward_y - right_y * onward_x <= 0.0
    if right_foreign:
        right_x, right_y = onward_x, onward_y

    vax, vay, vbx, vby = unit.vx - ax, unit.vy - ay, unit.vx - bx, unit.vy - by
    cut_x, cut_y = bx - ax, by - ay
    t = 0.5 if is_corner else (vax * cut_x + vay * cut_y) / (cut_x * cut_x + cut_y * cut_y)
    t_left, t_right = vax * left_x + vay * left_y, vbx * right_x + vby * right_y
    if (t < 0.0 and t_left < 0.0) or (is_corner and t_left < 0.0 and t_right < 0.0):
        length = math.sqrt(vax * vax + vay * vay)
        wx, wy = vax / length, vay / length
        return put_line(lines, n, ax + radius * wx, ay + radius * wy, wy, -wx)
    if t > 1.0 and t_right < 0.0:
        length = math.sqrt(vbx * vbx + vby * vby)
        wx, wy = vbx / length, vby / length
        return put_line(lines, n, bx + radius * wx, by + radius * wy, wy, -wx)

    to_cut = math.inf if t < 0.0 or t > 1.0 or is_corner else squared(vax - t * cut_x, vay - t * cut_y)
    to_left = math.inf if t_left < 0.0 else squared(vax - t_left * left_x, vay - t_left * left_y)
    to_right = math.inf if t_right < 0.0 else squared(vbx - t_right * right_x, vby - t_right * right_y)
    if to_cut <= to_left and to_cut <= to_right:
        return put_line(lines, n, ax + radius * ey, ay - radius * ex, -ex, -ey)
    if to_left <= to_right:
        if left_foreign:
            return n
        return put_line(lines, n, ax - radius * left_y, ay + radius * left_x, left_x, left_y)
    if right_foreign:
        return n
    return put_line(lines, n, bx + radius * right_y, by - radius * right_x, -right_x, -right_y)


@kernel
def rounded_square(x, two):  # type: ignore[no-untyped-def]
    """x² as the C library's pow rounds it: once in a thousand a unit in the last place away from x·x, on which the
    recordings hang.

    The error of x·x can be computed (Dekker 1971). As pow errs by less than 0.52 units in the last place, the two can
    only differ where a twentieth more of that error would round x·x to another number. The exponent comes out of an
    array, [1]: the compiler turns a constant 2 into x·x, and calls pow in advance, needed or not, where it knows it.
    """
    square = x * x
    high = SPLITTER * x - (SPLITTER * x - x)
    low = x - high
    error = ((high * high - square) + 2.0 * high * low) + low * low
    if square + 1.05 * error == square:
        return square
    return math.pow(x, two[0])


@kernel
def squared(x, y):  # type: ignore[no-untyped-def]
    return x * x + y * y


@kernel
def closest_on_line(lines, i, speed, goal_x, goal_y, along, two):  # type: ignore[no-untyped-def]
    """Linear program 1: the best permitted velocity on line i given lines 0 … i-1.

    Best is closest to the goal velocity or, with ``along``, furthest in its direction. Returns (found, vx, vy)."""
    px, py, dx, dy = lines[i, 0], lines[i, 1], lines[i, 2], lines[i, 3]
    p_along = px * dx + py * dy
    discriminant = rounded_square(p_along, two) + speed * speed - (px * px + py * py)
    if discriminant < 0.0:
        return False, 0.0, 0.0
    root = math.sqrt(discriminant)
    t_left, t_right = -p_along - root, -p_along + root
    for j in range(i):
        qx, qy, ex, ey = lines[j, 0], lines[j, 1], lines[j, 2], lines[j, 3]
        denominator = dx * ey - dy * ex
        numerator = ex * (py - qy) - ey * (px - qx)
        if abs(denominator) <= EPSILON:
            if numerator < 0.0:
                return False, 0.0, 0.0
            continue
        t = numerator / denominator
        if denominator >= 0.0:
            t_right = min(t_right, t)
        else:
            t_left = max(t_left, t)
        if t_left > t_right:
            return False, 0.0, 0.0
    if along:
        t = t_right if goal_x * dx + goal_y * dy > 0.0 else t_left
    else:
        t = dx * (goal_x - px) + dy * (goal_y - py)
        if t < t_left:
            t = t_left
        elif t > t_right:
            t = t_right
    return True, px + t * dx, py + t * dy


@kernel
def closest_velocity(lines, n, speed, goal_x, goal_y, along, two):  # type: ignore[no-untyped-def]
    """Linear program 2: the best permitted velocity under all n lines and the speed limit.

    Returns (n or the first line that could not be met, vx, vy)."""
    goal_squared = goal_x * goal_x + goal_y * goal_y
    if along:
        vx, vy = goal_x * speed, goal_y * speed
    elif goal_squared > speed * speed:
        length = math.sqrt(goal_squared)
        vx, vy = goal_x / length * speed, goal_y / length * speed
    else:
        vx, vy = goal_x, goal_y
    for i in range(n):
        if lines[i, 2] * (lines[i, 1] - vy) - lines[i, 3] * (lines[i, 0] - vx) > 0.0:
            found, new_vx, new_vy = closest_on_line(lines, i, speed, goal_x, goal_y, along, two)
            if not found:
                return i, vx, vy
            vx, vy = new_vx, new_vy
    return n, vx, vy


@kernel
def least_violation(lines, n, n_walls, begin, speed, vx, vy, projected, two):  # type: ignore[no-untyped-def]
    """Linear program 3: walls stay hard, the largest violation of the other lines from ``begin`` on is minimised."""
    distance = 0.0
    for i in range(begin, n):
        px, py, dx, dy = lines[i, 0], lines[i, 1], lines[i, 2], lines[i, 3]
        if dx * (py - vy) - dy * (px - vx) <= distance:
            continue
        m = n_walls
        for j in range(n_walls):
            put_line(projected, j, lines[j, 0], lines[j, 1], lines[j, 2], lines[j, 3])
        for j in range(n_walls, i):
            qx, qy, ex, ey = lines[j, 0], lines[j, 1], lines[j, 2], lines[j, 3]
            determinant = dx * ey - dy * ex
            if abs(determinant) <= EPSILON:
                if dx * ex + dy * ey > 0.0:
                    continue
                x, y = 0.5 * (px + qx), 0.5 * (py + qy)
            else:
                t = (ex * (py - qy) - ey * (px - qx)) / determinant
                x, y = px + t * dx, py + t * dy
            direction_x, direction_y = ex - dx, ey - dy
            length = math.sqrt(direction_x * direction_x + direction_y * direction_y)
            m = put_line(projected, m, x, y, direction_x / length, direction_y / length)
        failed, new_vx, new_vy = closest_velocity(projected, m, speed, -dy, dx, True, two)
        if failed == m:
            vx, vy = new_vx, new_vy
        distance = dx * (py - vy) - dy * (px - vx)
    return vx, vy
