"""The one way in which episodes are played: for training, for evaluation and for replays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.rollout.opponent import Opponent
from amal.runtime.argument_checks import check_whole
from amal.runtime.machine import one_thread
from amal.types import Battles, EpisodeBatch

VIEWS = ("obs", "state", "available_actions")  # seen before each step, and at an episode's end
OUTCOMES = ("rewards", "terminated", "truncated")


class NonFiniteView(RuntimeError):
    """A battle showed NaN or an infinite number; the message says which, where and when."""


class Actor(Protocol):
    """What plays: a module with a policy."""

    @property
    def device(self) -> torch.device: ...

    def initial_hidden(self, num_battles: int) -> Tensor:
        """[E, N, H], before an episode's first step."""

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(actions [E, N], log_probs [E, N], hidden [E, N, H]); greedy without a generator."""


class EpisodeRecorder:
    """Plays whole episodes on many battles and records them.

    An episode starts on whichever battle is free, and every episode that was started is finished and kept: nothing
    favours short ones. The recorded arrays are reused: a batch is valid until the next one is played.

    Args:
        battle: E battles, without automatic reset.
        max_episodes: B, the most episodes that one batch can hold.
        opponent: who drives the battles' enemies, if they have no script.
    """

    def __init__(self, battle: Battles, max_episodes: int, opponent: Actor | None = None) -> None:
        if battle.auto_reset:
            raise ValueError("EpisodeRecorder needs battles with auto_reset=False")
        check_whole(1, max_episodes=max_episodes)
        self.battle = battle
        self._opponent = None if opponent is None else Opponent(opponent)
        spec = battle.spec
        agents = (spec.n_agents,)
        fields: dict[str, tuple[tuple[int, ...], type]] = {
            "obs": ((*agents, spec.obs_dim), np.float32),
            "state": ((spec.state_dim,), np.float32),
            "available_actions": ((*agents, spec.n_actions), np.bool_),
            "actions": (agents, np.int64),
            "log_probs": (agents, np.float32),
            "rewards": ((), np.float32),
            "terminated": ((), np.bool_),
            "truncated": ((), np.bool_),
        }
        # no battle idles while an episode is left to start: the last one starts before max_episodes / E full lengths
        longest = (-(-max_episodes // battle.num_battles) + 1) * spec.episode_limit
        # as it happens, one slice per step
        num_battles = battle.num_battles
        self._log: dict[str, np.ndarray] = {
            name: np.zeros((longest, num_battles, *size), dtype) for name, (size, dtype) in fields.items()
        }
        # as it is handed over; views have one more, of the episode's end
        slots = {name: spec.episode_limit + (name in VIEWS) for name in fields}
        self._arrays: dict[str, np.ndarray] = {
            name: np.zeros((max_episodes, slots[name], *size), dtype) for name, (size, dtype) in fields.items()
        }
        self._outcomes = {
            "lengths": np.zeros(max_episodes, np.int64),
            "won": np.zeros(max_episodes, np.bool_),
            "dead_allies": np.zeros(max_episodes, np.int64),
            "dead_enemies": np.zeros(max_episodes, np.int64),
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
        check_whole(1, len(self._outcomes["won"]), episodes=episodes)
        # a step's few rows are done sooner than a second thread wakes
        with one_thread():
            self._play(actor, episodes, generator, watch)
        return self._batch(episodes, progress)

    def _play(
        self,
        actor: Actor,
        episodes: int,
        generator: torch.Generator | None,
        watch: Callable[[Battles], None] | None,
    ) -> None:
        battle, log = self.battle, self._log
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
            for name in VIEWS:
                log[name][step] = getattr(battle, name)
            self._check_views(step)
            actions, log_probs, hidden = actor.act(obs.to(device), available_actions.to(device), hidden, generator)
            log["actions"][step] = actions.cpu().numpy()
            log["log_probs"][step] = log_probs.cpu().numpy()
            if self._opponent is None:
                battle.step(log["actions"][step])
            else:
                assert isinstance(battle, VectorBattle)
                battle.step(log["actions"][step], self._opponent.choose(battle))
            for name in OUTCOMES:
                log[name][step] = getattr(battle, name)
            step += 1
            if watch is not None:
                watch(battle)

            ended = running & (battle.terminated | battle.truncated)
            if ended.any():
                for e in np.flatnonzero(ended).tolist():
                    self._keep_episode(int(row[e]), e, int(start[e]), step)
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

    def _check_views(self, step: int) -> None:
        """Raises NonFiniteView; here, because a policy would turn it into any action whatever."""
        for name in ("obs", "state"):
            view: np.ndarray = getattr(self.battle, name)
            if not math.isfinite(view.sum()):
                place = np.argwhere(~np.isfinite(view))[0]
                axes = ("battle", "agent", "feature") if name == "obs" else ("battle", "feature")
                where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place.tolist(), strict=True))
                value = view[tuple(place)]
                raise NonFiniteView(
                    f"{self.battle.spec.scenario} shows {name} = {value}: {where}, step {step} of a rollout"
                )

    def _keep_episode(self, row: int, e: int, start: int, end: int) -> None:
        """Takes the episode that battle e has just ended out of the log; padding is zero, whatever was there before."""
        length = end - start
        for name, array in self._arrays.items():
            array[row, :length] = self._log[name][start:end, e]
            array[row, length:] = 0
        for name in VIEWS:
            self._arrays[name][row, length] = getattr(self.battle, name)[e]
        self._outcomes["lengths"][row] = length
        self._outcomes["won"][row] = self.battle.won[e]
        self._outcomes["dead_allies"][row] = self.battle.dead("ally")[e]
        self._outcomes["dead_enemies"][row] = self.battle.dead("enemy")[e]

    def _batch(self, episodes: int, progress: float) -> EpisodeBatch:
        outcomes = {name: array[:episodes] for name, array in self._outcomes.items()}
        lengths = outcomes.pop("lengths")
        longest = lengths.max()
        trimmed = {name: a[:episodes, : longest + (name in VIEWS)] for name, a in self._arrays.items()}
        mask = np.arange(longest) < lengths[:, None]
        with torch.inference_mode(False):  # inference tensors could not be trained on
            tensors = {name: torch.from_numpy(a) for name, a in (trimmed | outcomes | {"mask": mask}).items()}
        return EpisodeBatch(**tensors, progress=progress)


def record_battle(
    actor: Actor, scenario: Scenario, seed: int, number: int = 0, opponent: Actor | None = None
) -> tuple[Scenario, np.ndarray]:
    """Greedy battle ``number`` of the seed: the scenario with the units that fought, and the recorded units
    [T+1, U, 9], with the columns of VectorBattle.units."""
    driven = opponent is not None
    battle = VectorBattle(scenario, 1, seed, auto_reset=False, first_battle=number, driven_enemy=driven)
    frames: list[np.ndarray] = []
    EpisodeRecorder(battle, 1, opponent).play(actor, 1, watch=lambda _: frames.append(battle.units[0]))
    return battle.fought(0), np.stack(frames)
