"""The one way in which episodes are played: for training, for evaluation and for replays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from amal.battle import VectorBattle
from amal.machine import one_thread
from amal.types import BattleSpec, EpisodeBatch


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
    """Plays whole episodes on the battles of a VectorBattle and records them.

    An episode starts on whichever battle is free, and every episode that was started is finished and kept: nothing
    favours short ones. The recorded arrays are reused: a batch is valid until the next one is played.

    Args:
        battle: E battles, without automatic reset.
        max_episodes: B, the most episodes that one batch can hold.
    """

    def __init__(self, battle: VectorBattle, max_episodes: int) -> None:
        if battle.auto_reset:
            raise ValueError("EpisodeRecorder needs battles with auto_reset=False")
        self.battle = battle
        b, t, spec = max_episodes, battle.spec.episode_limit, battle.spec
        n = spec.n_agents
        self._arrays = {
            "obs": np.zeros((b, t + 1, n, spec.obs_dim), np.float32),
            "state": np.zeros((b, t + 1, spec.state_dim), np.float32),
            "available_actions": np.zeros((b, t + 1, n, spec.n_actions), np.bool_),
            "actions": np.zeros((b, t, n), np.int64),
            "log_probs": np.zeros((b, t, n), np.float32),
            "rewards": np.zeros((b, t), np.float32),
            "terminated": np.zeros((b, t), np.bool_),
            "truncated": np.zeros((b, t), np.bool_),
            "mask": np.zeros((b, t), np.bool_),
        }
        self._outcomes = {
            "won": np.zeros(b, np.bool_),
            "dead_allies": np.zeros(b, np.int64),
            "dead_enemies": np.zeros(b, np.int64),
        }

    @torch.inference_mode()
    def play(
        self,
        actor: Actor,
        episodes: int,
        generator: torch.Generator | None = None,
        progress: float = 0.0,
        watch: Callable[[VectorBattle], None] | None = None,
    ) -> EpisodeBatch:
        """Plays that many episodes from their start with the actor as it is now.

        Args:
            actor: whose ``act`` decides.
            episodes: at most ``max_episodes``.
            generator: source of the sampled actions; None plays greedily.
            progress: share of the training budget used so far, goes into the batch.
            watch: is shown the battles at the start and after every step.
        """
        for array in self._arrays.values():
            array[:episodes] = 0  # padding is zero, whatever was played before
        # a step's few rows are done sooner than a second thread wakes
        with one_thread():
            self._play(actor, episodes, generator, watch)
        return self._batch(episodes, progress)

    def _play(
        self,
        actor: Actor,
        episodes: int,
        generator: torch.Generator | None,
        watch: Callable[[VectorBattle], None] | None,
    ) -> None:
        battle, arrays = self.battle, self._arrays
        n_battles = battle.num_battles
        row = np.arange(n_battles)  # which episode each battle plays
        step = np.zeros(n_battles, np.int64)
        running = row < episodes
        started = int(running.sum())
        battle.reset()
        hidden = actor.initial_hidden(n_battles)
        self._record_views(row, step, running)
        if watch is not None:
            watch(battle)
        while running.any():
            actions, log_probs, hidden = actor.act(
                torch.from_numpy(battle.obs).to(actor.device),
                torch.from_numpy(battle.available_actions).to(actor.device),
                hidden,
                generator,
            )
            chosen = actions.cpu().numpy()
            battle.step(chosen)
            if watch is not None:
                watch(battle)
            at = (row[running], step[running])
            arrays["actions"][at] = chosen[running]
            arrays["log_probs"][at] = log_probs.cpu().numpy()[running]
            for name in ("rewards", "terminated", "truncated"):
                arrays[name][at] = getattr(battle, name)[running]
            arrays["mask"][at] = True
            step[running] += 1
            self._record_views(row, step, running)

            ended = running & (battle.terminated | battle.truncated)
            if ended.any():
                self._record_outcomes(row, ended)
                free = np.flatnonzero(ended)
                again = free[: episodes - started]
                running[free] = False
                running[again], step[again] = True, 0
                row[again] = started + np.arange(len(again))
                started += len(again)
                restarted = np.isin(np.arange(n_battles), again)
                battle.reset(battles=restarted)
                self._record_views(row, step, restarted)
                hidden[torch.from_numpy(restarted)] = actor.initial_hidden(len(again))

    def _record_views(self, row: np.ndarray, step: np.ndarray, battles: np.ndarray) -> None:
        at = (row[battles], step[battles])
        for name in ("obs", "state", "available_actions"):
            self._arrays[name][at] = getattr(self.battle, name)[battles]

    def _record_outcomes(self, row: np.ndarray, ended: np.ndarray) -> None:
        self._outcomes["won"][row[ended]] = self.battle.won[ended]
        self._outcomes["dead_allies"][row[ended]] = self.battle.dead("ally")[ended]
        self._outcomes["dead_enemies"][row[ended]] = self.battle.dead("enemy")[ended]

    def _batch(self, episodes: int, progress: float) -> EpisodeBatch:
        longest = int(self._arrays["mask"][:episodes].sum(axis=1).max())
        slots = {"obs": longest + 1, "state": longest + 1, "available_actions": longest + 1}
        trimmed = {name: a[:episodes, : slots.get(name, longest)] for name, a in self._arrays.items()}
        outcomes = {name: a[:episodes] for name, a in self._outcomes.items()}
        with torch.inference_mode(False):  # inference tensors could not be trained on
            tensors = {name: torch.from_numpy(a) for name, a in (trimmed | outcomes).items()}
        return EpisodeBatch(**tensors, progress=progress)


def record_battle(actor: Actor, spec: BattleSpec, seed: int) -> np.ndarray:
    """One greedy battle as recorded units [T+1, U, 9], with the columns of VectorBattle.units."""
    battle = VectorBattle(spec.scenario, 1, seed, auto_reset=False, episode_limit=spec.episode_limit)
    frames: list[np.ndarray] = []
    EpisodeRecorder(battle, 1).play(actor, 1, watch=lambda battles: frames.append(battles.units[0]))
    return np.stack(frames)
