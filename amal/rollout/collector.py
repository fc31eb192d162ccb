"""Plays and records episodes, for training, evaluation and films alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from amal.battle.battlefield import Scenario
from amal.rollout.compiled import can_play, play_episodes
from amal.rollout.opponent import make_battles
from amal.runtime.argument_checks import check_whole
from amal.runtime.machine import one_thread
from amal.types import Actor, Battles, EpisodeBatch, PlainNetwork, StepField

FIELDS = EpisodeBatch.step_fields()
VIEWS = tuple(name for name, step in FIELDS.items() if step.is_view)
CHECKED_VIEWS = ("obs", "state")
OUTCOMES = tuple(name for name in FIELDS if name not in (*VIEWS, "actions", "log_probs"))  # of a step, by the battles


class NonFiniteView(RuntimeError):
    """An observation or a state holds NaN or infinity; the message says which one, where and when."""


class _Episode(NamedTuple):
    """How an episode ended."""

    length: int
    won: bool
    dead_allies: int
    dead_enemies: int


class EpisodeRecorder:
    """Plays whole episodes on many battles and records them.

    An episode starts as soon as a battle is free. Every episode that starts is finished and kept, so short episodes are
    not favoured. Each batch has its own memory.

    Args:
        battle: E battles, without automatic reset.
        max_episodes: B, the most episodes that one batch can hold.
        snapshots: record the memory of the embedded simulator beside the views.
    """

    def __init__(self, battle: Battles, max_episodes: int, snapshots: bool = False) -> None:
        if battle.auto_reset:
            raise ValueError("EpisodeRecorder needs battles with auto_reset=False")
        check_whole(1, max_episodes=max_episodes)
        self.battle = battle
        self.max_episodes = max_episodes
        spec, num_battles = battle.spec, battle.num_battles
        # no battle idles while an episode is left to start: the last one starts before max_episodes / E full lengths
        longest = (-(-max_episodes // num_battles) + 1) * spec.episode_limit
        sizes = {name: step.shape(vars(spec)) for name, step in FIELDS.items()}
        self._fields, self._views = dict(FIELDS), VIEWS
        if snapshots:
            sizes["snapshots"] = battle.snapshots.shape[1:]  # type: ignore[attr-defined]
            self._fields["snapshots"] = StepField((), "uint8", is_view=True)
            self._views = (*VIEWS, "snapshots")
        # as it happens, one slice per step; memory is used as far as it is written to
        self._log = {
            name: np.zeros((longest, num_battles, *sizes[name]), step.dtype) for name, step in self._fields.items()
        }

    @torch.inference_mode()
    def play(
        self,
        actor: Actor,
        episodes: int,
        generator: torch.Generator | None = None,
        progress: float = 0.0,
        watch: Callable[[Battles], None] | None = None,
    ) -> EpisodeBatch:
        """Plays that many episodes from their start with the actor as it is now.

        Args:
            actor: whose ``act`` decides.
            episodes: at most ``max_episodes``.
            generator: source of the sampled actions; None plays greedily.
            progress: share of the training budget used so far, goes into the batch.
            watch: is shown the battles at the start and after every step.
        """
        check_whole(1, self.max_episodes, episodes=episodes)
        network = None if watch is not None else self._plain_network(actor)
        if network is not None:
            played = self._play_compiled(network, episodes, generator)
        else:
            with one_thread():  # a step's few rows are done sooner than a second thread wakes
                played = self._play(actor, episodes, generator, progress, watch)
        return self._batch(*played, progress, generator is None)

    def _plain_network(self, actor: Actor) -> PlainNetwork | None:
        """What is played in one compiled call; None where the actor has to be asked step by step."""
        if "snapshots" in self._fields or not can_play(self.battle) or not hasattr(actor, "plain_network"):
            return None
        network: PlainNetwork | None = actor.plain_network()
        return network

    def _play_compiled(
        self, network: PlainNetwork, episodes: int, generator: torch.Generator | None
    ) -> tuple[dict[str, np.ndarray], list[_Episode]]:
        """Like ``_play``. The generator draws one seed, from which each episode gets its own random stream."""
        arrays = self._empty(episodes)
        seed = None if generator is None else int(torch.randint(2**63 - 1, (), generator=generator))
        record = play_episodes(self.battle, network, arrays, seed, torch.get_num_threads())  # type: ignore[arg-type]
        for name in CHECKED_VIEWS:
            for i, length in enumerate(record.lengths):
                self._check_view(name, arrays[name][i, : length + 1], ("step",), f"episode {i} of a rollout")
        ends = zip(record.lengths, record.won, record.dead_allies, record.dead_enemies, strict=True)
        return arrays, [_Episode(int(n), bool(won), int(allies), int(enemies)) for n, won, allies, enemies in ends]

    def _empty(self, episodes: int) -> dict[str, np.ndarray]:
        """Arrays [B, episode limit, ...] of the fields, new ones for each batch, so that a batch can be kept.

        Pages that nothing is written to take no memory."""
        longest = self.battle.spec.episode_limit
        return {
            name: np.empty((episodes, longest + self._fields[name].is_view, *array.shape[2:]), array.dtype)
            for name, array in self._log.items()
        }

    def _play(
        self,
        actor: Actor,
        episodes: int,
        generator: torch.Generator | None,
        progress: float,
        watch: Callable[[Battles], None] | None,
    ) -> tuple[dict[str, np.ndarray], list[_Episode]]:
        """The recorded arrays [B, episode limit, ...], and how the episodes ended, in the order of their starts."""
        battle, log, arrays = self.battle, self._log, self._empty(episodes)
        played: dict[int, _Episode] = {}
        obs, available_actions = torch.from_numpy(battle.obs), torch.from_numpy(battle.available_actions)
        row = np.arange(battle.num_battles)  # which episode each battle plays
        start = np.zeros(battle.num_battles, np.int64)  # when it began
        running = row < episodes
        started, step = int(running.sum()), 0
        battle.reset()
        hidden, device = actor.initial_hidden(battle.num_battles), actor.device
        if watch is not None:
            watch(battle)
        while running.any():
            for name in self._views:
                log[name][step] = getattr(battle, name)
            for name in CHECKED_VIEWS:
                self._check_view(name, getattr(battle, name), ("battle",), f"step {step} of a rollout")
            seen = (obs.to(device), available_actions.to(device))
            actions, log_probs, hidden = actor.act(*seen, hidden, generator, progress)
            log["actions"][step] = actions.cpu().numpy()
            log["log_probs"][step] = 0.0 if log_probs is None else log_probs.cpu().numpy()
            battle.step(log["actions"][step])
            for name in OUTCOMES:
                log[name][step] = getattr(battle, name)
            step += 1
            if watch is not None:
                watch(battle)

            ended = running & (battle.terminated | battle.truncated)
            if ended.any():
                for e in np.flatnonzero(ended).tolist():
                    played[int(row[e])] = self._keep(arrays, int(row[e]), e, int(start[e]), step)
                free = np.flatnonzero(ended)
                again = free[: episodes - started]
                running[free] = False
                running[again], start[again] = True, step
                row[again] = started + np.arange(len(again))
                started += len(again)
                restarted = np.zeros_like(running)
                restarted[again] = True
                battle.reset(battles=restarted)
                hidden[torch.from_numpy(restarted)] = actor.initial_hidden(len(again))
        return arrays, [played[i] for i in range(episodes)]

    def _check_view(self, name: str, view: np.ndarray, axes: tuple[str, ...], where: str) -> None:
        """Raises NonFiniteView for NaN or infinity, which a policy would silently turn into an arbitrary action.

        Args:
            name: 'obs' or 'state'.
            view: what was seen; its first axes are those named in ``axes``.
            axes: what comes before the agents and features.
            where: end of the message.
        """
        if math.isfinite(view.sum()):
            return
        place = np.argwhere(~np.isfinite(view))[0]
        named = (*axes, "agent", "feature") if name == "obs" else (*axes, "feature")
        at = ", ".join(f"{axis} {index}" for axis, index in zip(named, place.tolist(), strict=True))
        value = view[tuple(place)]
        raise NonFiniteView(f"{self.battle.spec.scenario} shows {name} = {value}: {at}, {where}")

    def _keep(self, arrays: dict[str, np.ndarray], row: int, e: int, start: int, end: int) -> _Episode:
        """Copies the episode that battle e has just ended from the log, and its last views, before a restart overwrites
        them."""
        length = end - start
        for name, array in arrays.items():
            array[row, :length] = self._log[name][start:end, e]
        for name in self._views:
            arrays[name][row, length] = getattr(self.battle, name)[e]
        dead_allies, dead_enemies = (int(self.battle.dead(side)[e]) for side in ("ally", "enemy"))
        return _Episode(length, bool(self.battle.won[e]), dead_allies, dead_enemies)

    def _batch(
        self, arrays: dict[str, np.ndarray], played: list[_Episode], progress: float, greedy: bool
    ) -> EpisodeBatch:
        lengths = np.array([episode.length for episode in played])
        longest = int(lengths.max())
        trimmed = {name: array[:, : longest + self._fields[name].is_view] for name, array in arrays.items()}
        for name, array in trimmed.items():
            for row, length in enumerate(lengths):
                array[row, length + self._fields[name].is_view :] = 0
        outcomes = {
            name: np.array([getattr(x, name) for x in played]) for name in ("won", "dead_allies", "dead_enemies")
        }
        tensors = trimmed | outcomes | {"mask": np.arange(longest) < lengths[:, None]}
        with torch.inference_mode(False):  # inference tensors could not be trained on
            recorded = {name: torch.from_numpy(x) for name, x in tensors.items()}
            return EpisodeBatch(**recorded, progress=progress, greedy=greedy)


def record_battle(
    actor: Actor, scenario: Scenario, seed: int, number: int = 0, opponent: Actor | None = None
) -> tuple[Scenario, np.ndarray]:
    """Greedy battle ``number`` of the seed: the scenario with the units that fought, and the recorded units
    [T+1, U, 9], with the columns of VectorBattle.units."""
    battle = make_battles(scenario, 1, seed, first_battle=number, opponent=opponent)
    frames: list[np.ndarray] = []
    EpisodeRecorder(battle, 1).play(actor, 1, watch=lambda _: frames.append(battle.units[0]))
    return battle.fought(0), np.stack(frames)
