"""The enemy team as agents: what it sees and how it is told what to do, exactly as if the sides were exchanged.

Its view of the field is turned by half a turn about the middle. A turn and not a reflection, for enemy blocks start
where a turn puts those of the allies, and a turn changes nothing in collision avoidance, which tells left from right.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from amal.battle.battlefield import FIELD_SIZE, FULL_TURN, MOVE_ACTIONS, Scenario
from amal.battle.compilation import kernel
from amal.battle.dynamics import give_orders
from amal.battle.observer import clear_last_actions, observe, write_last_actions
from amal.battle.random_stream import draw_share
from amal.battle.state import UNIT, Scene
from amal.types import BattleSpec

# As in the recordings. From symmetric places two policies without chance would fight the same battle every time.
START_SCATTER = 0.02


@kernel
def scatter(units, battles, scene, began, obs, state, available):  # type: ignore[no-untyped-def]
    """Moves the units of battles that have begun, [E] bool, by up to START_SCATTER per axis, and observes those."""
    for e in range(len(battles)):
        if began[e]:
            for i in range(units.shape[1]):
                units[e, i].x += START_SCATTER * (2.0 * draw_share(battles[e]) - 1.0)
                units[e, i].y += START_SCATTER * (2.0 * draw_share(battles[e]) - 1.0)
            observe(units[e], scene, obs[e], state[e], available[e])


@kernel
def observe_turned(units, battles, scene, actions, turned, obs, state, available):  # type: ignore[no-untyped-def]
    """Observes all battles by a scene from turned_scene, with actions [E, M] as the last ones."""
    for e in range(len(battles)):
        for i in range(len(turned)):
            turned[i].x, turned[i].y = FIELD_SIZE - units[e, i].x, FIELD_SIZE - units[e, i].y
            turned[i].hp, turned[i].shield = units[e, i].hp, units[e, i].shield
            turned[i].energy, turned[i].cooldown = units[e, i].energy, units[e, i].cooldown
        observe(turned, scene, obs[e], state[e], available[e])
        clear_last_actions(scene, state[e])
        if battles[e].step > 0:
            write_last_actions(scene, state[e], actions[e])


@kernel
def order_turned(units, battles, scene, actions):  # type: ignore[no-untyped-def]
    """Gives the orders of actions [E, M], whose directions are turned back already, in all running battles."""
    for e in range(len(battles)):
        if not battles[e].over:
            give_orders(units[e], scene, actions[e])


def check_equal_teams(scenario: Scenario) -> None:
    """Raises ValueError unless both teams have the same units, in every battle, and see all around."""
    if scenario.family is not None:
        raise ValueError(f"{scenario.name}: enemies that are drawn for every battle cannot be driven, only fixed teams")
    if scenario.view_angle < FULL_TURN:
        raise ValueError(f"{scenario.name}: enemies cannot be driven where agents see only {scenario.view_angle:g}°")
    ours, theirs = (Counter(unit.name for unit in scenario.of_side(side)) for side in ("ally", "enemy"))
    if ours != theirs:
        teams = [", ".join(f"{count} {name}" for name, count in team.items()) for team in (ours, theirs)]
        raise ValueError(
            f"{scenario.name}: only teams of equal units can exchange sides, "
            f"but the allies are {teams[0]} and the enemies {teams[1]}"
        )


def turned_scene(scenario: Scenario, scene: Scene) -> Scene:
    """The scene with sides exchanged and the field turned. Raises ValueError if the teams are not equal.

    Where the sides list their units in different orders, the enemies are numbered in the allies' order and vice versa.
    """
    check_equal_teams(scenario)
    types = [unit.name for unit in scenario.units]

    def in_order_of(pattern: np.ndarray, members: np.ndarray) -> np.ndarray:
        queues = {name: iter([i for i in members if types[i] == name]) for name in types}
        return np.array([next(queues[types[i]]) for i in pattern], dtype=np.int64)

    return scene._replace(
        allies=in_order_of(scene.allies, scene.enemies),
        enemies=in_order_of(scene.enemies, scene.allies),
        ground=np.ascontiguousarray(scene.ground[::-1, ::-1]),
    )


class OpponentSide:
    """The enemy team of E battles, for whoever drives it.

    Args:
        scenario: one whose teams are equal.
        scene: of the scenario.
        spec: of the scenario; it holds for both sides.
        num_battles: E.
    """

    def __init__(self, scenario: Scenario, scene: Scene, spec: BattleSpec, num_battles: int) -> None:
        self.scene = turned_scene(scenario, scene)
        self.obs = np.zeros((num_battles, spec.n_agents, spec.obs_dim), np.float32)
        self.state = np.zeros((num_battles, spec.state_dim), np.float32)
        self.available_actions = np.zeros((num_battles, spec.n_agents, spec.n_actions), np.bool_)
        self.actions = np.zeros((num_battles, spec.n_agents), np.int64)  # the last ones
        self._turned = np.zeros(len(scene.kinds), UNIT).view(np.recarray)

    def order(self, units: np.ndarray, battles: np.recarray, actions: np.ndarray) -> None:
        """Has the enemies of running battles act by available actions [E, M] until the next step."""
        running = ~battles.over
        self.actions[running] = actions[running]
        moves = (actions > 1) & (actions < MOVE_ACTIONS)
        turned = np.where(moves, actions ^ 1, actions)  # 2 north, 3 south, 4 east, 5 west
        order_turned(units, battles, self.scene, turned)

    def observe(self, units: np.ndarray, battles: np.recarray) -> None:
        """Writes obs, state and available actions of all battles as they are."""
        observe_turned(
            units, battles, self.scene, self.actions, self._turned, self.obs, self.state, self.available_actions
        )
