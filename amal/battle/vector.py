"""VectorBattle: many battles of one scenario, stepped together in one compiled call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amal.battle.arguments import check_saved, check_side, checked_actions, checked_mask, checked_positions
from amal.battle.battlefield import FIELD_SIZE, MOVE_ACTIONS, Scenario
from amal.battle.compilation import announced
from amal.battle.lineup import complete_lineup
from amal.battle.opponent_side import OpponentSide, scatter
from amal.battle.scenario import load_scenario, with_random_delay
from amal.battle.state import ATTACK_MOVE, BATTLE, ENEMY, HEAL, UNIT, Scene, build_lineup, build_scene, build_scratch
from amal.battle.stepping import CHUNKS, Views, first_refused, start_battle, step_all, step_chunk
from amal.battle.threads import may_share_work, openmp_threads_kept
from amal.runtime.argument_checks import check_flag, check_whole

MOST_BATTLES = 2**20  # each has a random stream, of which ten thousand are made in a second
PARALLEL_UNITS = 1024  # with fewer in all, waking a second thread costs more than it saves

ACTION_NAMES = ("no-op", "stop", "move north", "move south", "move east", "move west")  # before the targets


class UnavailableAction(ValueError):
    """An agent chose an action that it cannot take now. Nothing was stepped."""


class VectorBattle:
    """E battles of one scenario.

    Battle k depends on the seed and on its number alone: not on E, on the other battles or on the thread count.
    Arrays are written in place by ``reset`` and ``step``: copy what you keep.

    Args:
        scenario: a name from scenarios.yaml, the path of a YAML file, or a Scenario.
        num_battles: E.
        seed: of all that is random: the order in which units act within a tick, delays of shots, who fights where in a
            family, and where units start in battles with an opponent.
        shuffle_units: draw that order anew every tick; otherwise units act by id.
        auto_reset: start the next episode in the step that ends one (its last views are in ``final_obs`` and
            ``final_state``); otherwise a battle that is over stands still until ``reset``.
        episode_limit: steps until truncation, at most battlefield.LONGEST_EPISODE; by default the scenario's.
        first_battle: number of the first battle, to go on where another VectorBattle's numbers end.
        with_opponent: the enemies do not follow their script, but what ``step`` is told; both teams must be equal.
            Units then start up to 0.02 off their places per axis, drawn anew for every episode.
        random_delay: True to draw for every shot how much later or sooner than its cooldown the next one comes, within
            the scenario's bounds or, if it has none, RANDOM_DELAY; [least, most] in ticks of 1/16 s for other bounds.
            By default, as the scenario says: those that ship have no delay.

    Raises ValueError that names an argument, here and in every method.
    """

    def __init__(
        self,
        scenario: str | Scenario,
        num_battles: int,
        seed: int = 0,
        shuffle_units: bool = True,
        auto_reset: bool = True,
        episode_limit: int | None = None,
        first_battle: int = 0,
        with_opponent: bool = False,
        random_delay: bool | Sequence[int] = False,
    ) -> None:
        check_whole(1, MOST_BATTLES, num_battles=num_battles)
        check_whole(0, seed=seed, first_battle=first_battle)
        check_flag(shuffle_units=shuffle_units, auto_reset=auto_reset, with_opponent=with_opponent)
        loaded = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
        self.scenario = with_random_delay(loaded, random_delay)
        self.spec = self.scenario.spec(episode_limit)
        self.num_battles = num_battles
        self.shuffle_units = shuffle_units
        self.auto_reset = auto_reset
        self._scene = build_scene(self.scenario, self.spec.episode_limit)
        self._lineup = build_lineup(self.scenario, self._scene, num_battles)
        shape = (num_battles, len(self._scene.kinds))
        self._units = np.zeros(shape, UNIT).view(np.recarray)
        self._battles = np.zeros(num_battles, BATTLE).view(np.recarray)
        self._battles.random_state = [
            np.random.SeedSequence(seed, spawn_key=(first_battle + k,)).generate_state(1, np.uint64)[0]
            for k in range(num_battles)
        ]
        self._battles.over = True  # none has begun
        self._views = self._allocate_views()
        self._scratch = build_scratch(self._scene, CHUNKS)
        self._opponent_side = (
            OpponentSide(self.scenario, self._scene, self.spec, num_battles) if with_opponent else None
        )
        with announced():
            self.reset()
            if not _compiled:
                self._compile()

    def _allocate_views(self) -> Views:
        n, spec = self.num_battles, self.spec
        return Views(
            obs=np.zeros((n, spec.n_agents, spec.obs_dim), np.float32),
            state=np.zeros((n, spec.state_dim), np.float32),
            available_actions=np.zeros((n, spec.n_agents, spec.n_actions), np.bool_),
            final_obs=np.zeros((n, spec.n_agents, spec.obs_dim), np.float32),
            final_state=np.zeros((n, spec.state_dim), np.float32),
            rewards=np.zeros(n),
            terminated=np.zeros(n, np.bool_),
            truncated=np.zeros(n, np.bool_),
            won=np.zeros(n, np.bool_),
            nowhere=np.zeros((0, 2)),
        )

    @property
    def obs(self) -> np.ndarray:
        return self._views.obs

    @property
    def state(self) -> np.ndarray:
        return self._views.state

    @property
    def available_actions(self) -> np.ndarray:
        return self._views.available_actions

    @property
    def opponent_obs(self) -> np.ndarray:
        """[E, M, O] float32: what the opponent's agents see, as the allies of a field that is turned by half a turn."""
        return self._opponents().obs

    @property
    def opponent_state(self) -> np.ndarray:
        """[E, S] float32: the state as the opponent sees it."""
        return self._opponents().state

    @property
    def opponent_available_actions(self) -> np.ndarray:
        """[E, M, A] bool, of the opponent's agents."""
        return self._opponents().available_actions

    @property
    def final_obs(self) -> np.ndarray:
        return self._views.final_obs

    @property
    def final_state(self) -> np.ndarray:
        return self._views.final_state

    @property
    def rewards(self) -> np.ndarray:
        return self._views.rewards

    @property
    def terminated(self) -> np.ndarray:
        return self._views.terminated

    @property
    def truncated(self) -> np.ndarray:
        return self._views.truncated

    @property
    def won(self) -> np.ndarray:
        return self._views.won

    @property
    def episode_steps(self) -> np.ndarray:
        """[E] int64: steps since each episode began."""
        return self._battles.step

    @property
    def scene(self) -> Scene:
        """Constants of the first battle; without a family, of all."""
        return self.scene_of(0)

    def scene_of(self, e: int) -> Scene:
        """Constants of battle e as it is fought now."""
        check_whole(0, self.num_battles - 1, e=e)
        lineup, b = self._lineup, min(e, len(self._lineup.kinds) - 1)
        return self._scene._replace(
            kinds=lineup.kinds[b],
            damage=lineup.damage[b],
            attack_x=float(lineup.attack_points[b, 0]),
            attack_y=float(lineup.attack_points[b, 1]),
            reward_scale=float(lineup.reward_scales[b]),
            facing=lineup.facing[min(e, len(lineup.facing) - 1)],
        )

    def fought(self, e: int) -> Scenario:
        """The scenario with the units of battle e; without a family, the scenario as it is."""
        check_whole(0, self.num_battles - 1, e=e)
        family = self.scenario.family
        if family is None:
            return self.scenario
        drawn = self._lineup.pair_types[e]
        pairs = [*range(family.allies), *range(family.enemies)]
        return self.scenario.drawn([family.types[drawn[i]] for i in pairs], self._lineup.starts[e])

    @property
    def units(self) -> np.ndarray:
        """[E, U, 9] float64: x, y, hp, shield, energy, cooldown, alive, target's global id or -1, shield delay."""
        u = self._units
        columns = (u.x, u.y, np.maximum(u.hp, 0), u.shield, u.energy, u.cooldown, u.hp > 0, u.target, u.shield_delay)
        return np.stack(columns, axis=-1)

    def dead(self, side: str) -> np.ndarray:
        """[E] int64: how many units of side 'ally' or 'enemy' are dead."""
        check_side(side)
        members = self._scene.allies if side == "ally" else self._scene.enemies
        return (self._units.hp[:, members] <= 0).sum(axis=1)

    def reset(self, positions: np.ndarray | None = None, battles: np.ndarray | None = None) -> None:
        """Starts new episodes. A battle that was not stepped since it began begins again as it was.

        Args:
            positions: [E, U, 2] start positions in global id order; by default the scenario's or, in a family, drawn.
            battles: [E] bool, which battles to restart; by default all.
        """
        chosen = checked_mask(battles, self.num_battles)
        if positions is None:
            starts = np.zeros((self.num_battles, 0, 2))
        else:
            starts = checked_positions(positions, (*self._units.shape, 2), FIELD_SIZE)
        views = self._views
        for e in np.flatnonzero(chosen).tolist():
            start_battle(self._units, self._battles, self._scene, self._lineup, e, starts[e], views)
            views.rewards[e] = 0.0
            views.terminated[e] = views.truncated[e] = views.won[e] = False
        if self._opponent_side is not None:
            self._show(self._opponent_side, chosen & (positions is None))

    def _show(self, side: OpponentSide, began: np.ndarray) -> None:
        """Ends a reset or step of battles with an opponent; some, [E] bool, have begun at the scenario's places."""
        views = (self._views.obs, self._views.state, self._views.available_actions)
        scatter(self._units, self._battles, self._scene, began, *views)
        side.observe(self._units, self._battles)

    def step(self, actions: np.ndarray, opponent_actions: np.ndarray | None = None) -> None:
        """Steps every running battle with actions [E, N] (ignored for battles that are over).

        Args:
            actions: [E, N].
            opponent_actions: [E, M] of the opponent, and only with one; its north is the allies' south.

        Raises UnavailableAction, before anything is stepped, naming the agent and what it could have done."""
        actions = self._checked(actions, self._scene, self.available_actions)
        parallel = self._units.size >= PARALLEL_UNITS and may_share_work()
        if self._opponent_side is None and opponent_actions is None:
            self._step(actions, parallel)
            return
        if opponent_actions is None:
            raise ValueError("opponent_actions are missing: these battles were made with with_opponent=True")
        side = self._opponents()
        side.order(self._units, self._battles, self._checked(opponent_actions, side.scene, side.available_actions))
        self._step(actions, parallel)
        self._show(side, (self.terminated | self.truncated) & self.auto_reset)

    def _opponents(self) -> OpponentSide:
        if self._opponent_side is None:
            raise ValueError("these battles' enemies follow their script; make them by with_opponent=True")
        return self._opponent_side

    def _checked(self, actions: np.ndarray, scene: Scene, available: np.ndarray) -> np.ndarray:
        """The actions of the team that is allied in that scene, as int64, if it can take them."""
        name, axes = ("actions", "[E, N]") if scene is self._scene else ("opponent_actions", "[E, M]")
        actions = checked_actions(actions, available.shape[:2], name, axes)
        e, agent = first_refused(self._battles, actions, available)
        if e >= 0:
            me = int(scene.allies[agent])
            team, name = "agent" if scene is self._scene else "enemy", self.fought(e).units[me].name
            refusal = self._refusal(self.scene_of(e).kinds[me], int(actions[e, agent]), available[e, agent])
            raise UnavailableAction(f"battle {e}, {team} {agent} ({name}): {refusal}")
        return actions

    def _step(self, actions: np.ndarray, parallel: bool) -> None:
        battles = (self._units, self._battles, self._scene, self._lineup)
        rest = (actions, self.shuffle_units, self.auto_reset, self._views, self._scratch)
        if parallel:
            step_all(*battles, *rest)
        else:
            step_chunk(*battles, 0, 1, *rest)

    def _compile(self) -> None:
        """Compiles the kernels or loads them from the cache, by a step of battles that are all over."""
        over = self._battles.over.copy()
        self._battles.over = True
        actions = np.zeros((self.num_battles, self.spec.n_agents), np.int64)
        first_refused(self._battles, actions, self.available_actions)
        self._step(actions, parallel=False)
        if may_share_work():
            with openmp_threads_kept():
                self._step(actions, parallel=True)
        self._battles.over = over
        _compiled.append(True)

    def _refusal(self, kind: np.record, action: int, available: np.ndarray) -> str:
        choices = ", ".join(self._action_name(kind, int(a)) for a in np.flatnonzero(available))
        return f"action {self._action_name(kind, action)} is not available; available: {choices}"

    def _action_name(self, kind: np.record, action: int) -> str:
        if not 0 <= action < self.spec.n_actions:
            return f"{action} (there are {self.spec.n_actions})"
        if action < MOVE_ACTIONS:
            return f"{action} {ACTION_NAMES[action]}"
        side = "enemy" if (kind.weapon == HEAL) == (kind.side == ENEMY) else "ally"
        return f"{action} target {side} {action - MOVE_ACTIONS}"

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that future steps depend on, as arrays of bytes and numbers."""
        views = self._views
        return {
            "units": _bytes(self._units).copy(),
            "battles": _bytes(self._battles).copy(),
            **{name: getattr(views, name).copy() for name in views._fields},
            **({} if self._opponent_side is None else {"opponent_actions": self._opponent_side.actions.copy()}),
            **{name: getattr(self._lineup, name).copy() for name in self._drawn()},
        }

    def _drawn(self) -> list[str]:
        """Fields of the lineup that change from battle to battle and from which the others follow."""
        return ["pair_types", "starts"] * (self.scenario.family is not None) + ["facing"] * (
            self._lineup.facing.size > 0
        )

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restores ``state_dict`` of battles of the same scenario and number.

        If one has an opponent and the other has not, the enemies change hands."""
        check_saved(state, self.state_dict(), f"{self.num_battles} battles of {self.scenario.name}")
        self._check_indices(state)
        self._units.view(np.uint8).reshape(self.num_battles, -1)[:] = state["units"]
        self._battles.view(np.uint8).reshape(self.num_battles, -1)[:] = state["battles"]
        for name in self._views._fields:
            getattr(self._views, name)[:] = state[name]
        for name in self._drawn():
            getattr(self._lineup, name)[:] = state[name]
        self._complete_lineups()
        if self._opponent_side is None:
            self._units.order[:, self._scene.enemies] = ATTACK_MOVE
        else:
            self._opponent_side.actions[:] = state.get("opponent_actions", 0)
            self._opponent_side.observe(self._units, self._battles)

    @property
    def snapshots(self) -> np.ndarray:
        """[E, K] uint8: what each battle's future follows from, its views apart; for ``go_on_from``."""
        return np.concatenate([_bytes(array) for array in self._memory()], axis=1)

    def go_on_from(self, snapshots: np.ndarray, random_states: np.ndarray, views: Mapping[str, np.ndarray]) -> None:
        """Goes on from moments of battles of the same scenario, with other chances than they had.

        Args:
            snapshots: [E, K] uint8, of battles that were not over.
            random_states: [E] uint64, of the random streams from here on.
            views: ``obs``, ``state`` and ``available_actions`` at those moments.
        """
        if self._opponent_side is not None:
            raise ValueError("battles with an opponent cannot go on from a snapshot: it does not hold the opponent")
        start = 0
        for array in self._memory():
            size = _bytes(array).shape[1]
            part = np.ascontiguousarray(snapshots[:, start : start + size])
            array[:] = part.view(array.dtype).reshape(array.shape)
            start += size
        self._complete_lineups()
        self._battles.random_state = random_states
        self._battles.over = False
        for name, view in views.items():
            getattr(self._views, name)[:] = view
        for name in ("rewards", "terminated", "truncated", "won"):
            getattr(self._views, name)[:] = 0

    def _complete_lineups(self) -> None:
        """After what was drawn for the battles of a family has been put back."""
        if self.scenario.family is not None:
            for e in range(self.num_battles):
                complete_lineup(self._scene, self._lineup, e)

    def _memory(self) -> list[np.ndarray]:
        """The arrays [E, ...] that snapshots are made of."""
        return [self._units, self._battles, *(getattr(self._lineup, name) for name in self._drawn())]

    def _check_indices(self, state: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError for indices out of bounds, at which kernels would write anywhere."""
        units = np.ascontiguousarray(state["units"]).view(UNIT)
        last = units.shape[1] - 1
        bounds = [(units[name], -1, last) for name in ("order_target", "target", "previous_target", "shoots_at")]
        if self.scenario.family is not None:
            bounds.append((state["pair_types"], 0, len(self._lineup.types) - 1))
        if "opponent_actions" in state:
            bounds.append((state["opponent_actions"], 0, self.spec.n_actions - 1))
        if any((index < least).any() or (index > most).any() for index, least, most in bounds):
            raise ValueError("battle state is damaged: it names units, types or actions that do not exist")


def _bytes(array: np.ndarray) -> np.ndarray:
    """[E, K] uint8: the memory of an array [E, ...]."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)


_compiled: list[bool] = []  # not empty once this process has the kernels
