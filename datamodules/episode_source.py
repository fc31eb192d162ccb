"""Where a run's episodes come from: its battles, their random streams and who plays in them."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from amal.backends.battles import ARGUMENTS, EpisodeLost, WorkerBattles, refuse_random_delay
from amal.battle.battlefield import Scenario
from amal.battle.scenario import check_same_content, in_this_form, load_scenario
from amal.battle.vector import MOST_BATTLES
from amal.rollout.collector import EpisodeRecorder
from amal.rollout.load_policy import load_opponent
from amal.rollout.opponent import make_battles
from amal.runtime.argument_checks import LARGEST_COUNT, check_choice, check_whole
from amal.runtime.distributed import collected, gathered, of_this_process, processes, rank
from amal.runtime.random_streams import Stream, stream_seed
from amal.types import Actor, Battles, EpisodeBatch
from datamodules.budget import Budget

EVALUATION_BATTLES = 32
VALIDATION_EPISODES = 32
TEST_EPISODES = 320

Backend = Literal["embedded", "starcraft2", "smacv2", "smaclite"]


class EpisodeSource:
    """Plays the episodes of training, which count, and those of evaluations, which do not.

    Both have battles and random streams of their own. Processes that train together play different battles.

    Args:
        budget: counts the episodes of training and says how many are left.
        seed: of all random streams.
        scenario: name of a scenario, or path of a YAML file with one.
        episodes_per_update: episodes of a batch of training, in each process.
        num_envs: battles that are played at once, in each process.
        episode_limit: steps until an episode is truncated; by default the scenario's.
        backend: what runs the battles.
        backend_options: other arguments of that back end's constructor.
        opponent: checkpoint of a run whose policy drives the enemies greedily.
        random_delay: of every shot, [least, most] in ticks; true for the scenario's bounds, or -1 to 2 if it has none;
            false for what the scenario says.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int,
        scenario: str,
        episodes_per_update: int,
        num_envs: int,
        episode_limit: int | None = None,
        backend: Backend = "embedded",
        backend_options: dict[str, Any] | None = None,
        opponent: str | None = None,
        random_delay: bool | list[int] = False,
        snapshots: bool = False,
    ) -> None:
        check_whole(1, LARGEST_COUNT, episodes_per_update=episodes_per_update)
        check_whole(1, MOST_BATTLES, num_envs=num_envs)
        if num_envs > episodes_per_update:
            raise ValueError(
                f"num_envs must be at most episodes_per_update ({episodes_per_update}), got {num_envs}: "
                f"more battles would stand idle; set num_envs to {episodes_per_update} too"
            )
        _check_backend(backend, backend_options)
        self.budget, self.seed = budget, seed
        self.episodes_per_update, self.num_envs = episodes_per_update, num_envs
        self.backend, self.snapshots = backend, snapshots
        if snapshots and (backend != "embedded" or opponent is not None):
            raise ValueError("snapshots are of the embedded simulator only, and without an opponent")
        self._worker_arguments = (scenario, episode_limit, backend_options)
        self._workers: WorkerBattles | None = None
        # only the embedded simulator tells who fights where
        self.scenario: Scenario | None = None
        if backend == "embedded":
            self.scenario = load_scenario(scenario, episode_limit, random_delay)
        else:
            refuse_random_delay(backend, random_delay)
        self.spec = self._in_workers().spec if self.scenario is None else self.scenario.spec()
        self.opponent: Actor | None = None
        self.opponent_sha256: str | None = None  # of its checkpoint
        if opponent is not None:
            if not isinstance(opponent, str | Path):
                raise ValueError(f"opponent must be the path of a checkpoint, got {opponent!r}")
            if self.scenario is None:
                raise ValueError(f"opponent: only the embedded simulator's enemies can be driven, not {backend}'s")
            self.opponent = load_opponent(Path(opponent), self.scenario)
            with Path(opponent).open("rb") as file:
                self.opponent_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._recorder: EpisodeRecorder | None = None
        self._evaluation_recorder: EpisodeRecorder | None = None
        self._generator: torch.Generator | None = None
        self._restored: list[dict[str, Any]] = []  # of each process

    def play_training(self, actor: Actor) -> EpisodeBatch:
        """The next batch of training, played by the actor as it is now; counts in the budget."""
        if self._recorder is None:
            battle = self._battles("battles", self.num_envs, first_battle=rank() * self.num_envs)
            self._recorder = EpisodeRecorder(battle, self.episodes_per_update, self.snapshots)
            self._generator = torch.Generator(device=actor.device).manual_seed(stream_seed(self.seed, "policy", rank()))
            self._restore()
        episodes = self.budget.allowed(self.episodes_per_update, processes())
        batch = self._play(self._recorder, actor, episodes, self._generator)
        self.budget.use(sum(gathered(int(batch.mask.sum()))), episodes * processes())
        return batch

    def play_evaluation(
        self,
        actor: Actor,
        stream: Stream = "evaluation",
        episodes: int = VALIDATION_EPISODES,
        number: int = 0,
        sampled: bool = False,
    ) -> Iterator[EpisodeBatch]:
        """Episodes on battles of their own, 32 at a time, one on each battle; they do not count in the budget.

        Args:
            actor: who plays.
            stream: random stream of the battles.
            episodes: how many in all.
            number: of the evaluation; each has other battles, always the same ones.
            sampled: actions are drawn, from a random stream of their own, as they are in training; else greedy. The
                battles are the same.
        """
        generator = None
        if sampled:
            seed = stream_seed(self.seed, "sampled_evaluation", played=self.budget.episodes)
            generator = torch.Generator(device=actor.device).manual_seed(seed)
        for first in range(0, episodes, EVALUATION_BATTLES):
            count = min(EVALUATION_BATTLES, episodes - first)
            battle = self._battles(stream, EVALUATION_BATTLES, first_battle=number * episodes + first)
            if self._evaluation_recorder is None:
                self._evaluation_recorder = EpisodeRecorder(battle, EVALUATION_BATTLES)
            self._evaluation_recorder.battle = battle
            yield self._play(self._evaluation_recorder, actor, count, generator)

    def play_both_ways(
        self, actor: Actor, stream: Stream = "evaluation", episodes: int = VALIDATION_EPISODES, number: int = 0
    ) -> Iterator[EpisodeBatch]:
        """Greedy episodes, then the same battles with sampled actions; arguments as of ``play_evaluation``."""
        for sampled in (False, True):
            yield from self.play_evaluation(actor, stream, episodes, number, sampled)

    @property
    def restarts(self) -> int:
        """How often a process of another back end was replaced in this session."""
        return 0 if self._workers is None else self._workers.restarts

    def close(self) -> None:
        """Ends the processes of another back end; whoever plays on gets new ones."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def state_dict(self) -> dict[str, Any]:
        streams: dict[str, Any] = {}
        if self._recorder is not None and self._generator is not None:
            if self.scenario is not None:
                battle = self._recorder.battle.state_dict()  # type: ignore[attr-defined]
                streams["battle"] = {name: torch.from_numpy(array) for name, array in battle.items()}
            streams["generator"] = self._generator.get_state()
        return {
            "scenario": {} if self.scenario is None else self.scenario.identity,
            "opponent_sha256": self.opponent_sha256,
            "processes": collected(streams),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.scenario is not None:
            check_same_content(self.scenario, state_dict.get("scenario", {}))
        self._restored = [dict(streams) for streams in state_dict["processes"]]
        self.close()  # the processes of another back end would play the battles again that were played
        if self._recorder is not None:
            self._restore()

    def _restore(self) -> None:
        """Puts the battles and the policy's random stream back to where a checkpoint left them."""
        assert self._recorder is not None and self._generator is not None
        streams = of_this_process(self._restored) if self._restored else {}
        if "battle" in streams and self.scenario is not None:
            battle = {name: tensor.cpu().numpy() for name, tensor in streams["battle"].items()}
            self._recorder.battle.load_state_dict(battle)  # type: ignore[attr-defined]
        if "generator" in streams:
            self._generator.set_state(streams["generator"].cpu())
        self._restored = []

    def _play(
        self, recorder: EpisodeRecorder, actor: Actor, episodes: int, generator: torch.Generator | None = None
    ) -> EpisodeBatch:
        """The recorder's episodes, all of them played anew when one was lost: none is favoured for being short."""
        if self.scenario is None:
            recorder.battle = self._in_workers()
        while True:
            try:
                return recorder.play(actor, episodes, generator, self.budget.progress)
            except EpisodeLost as lost:
                print(f"{lost}; playing this batch of {episodes} again", file=sys.stderr)

    def _battles(self, stream: Stream, num_battles: int, first_battle: int) -> Battles:
        if self.scenario is None:
            return self._in_workers()
        return make_battles(self.scenario, num_battles, stream_seed(self.seed, stream), first_battle, self.opponent)

    def _in_workers(self) -> WorkerBattles:
        """The battles of another back end, which training and evaluation share. Their random streams cannot be saved,
        so those that are started later in a run get others."""
        if self._workers is None:
            scenario, episode_limit, options = self._worker_arguments
            seed = stream_seed(self.seed, "battles", rank(), played=self.budget.episodes)
            self._workers = WorkerBattles(self.backend, scenario, self.num_envs, seed, episode_limit, options)
        return self._workers


def batches_of(episodes: int) -> int:
    """How many batches an evaluation of so many episodes yields."""
    return math.ceil(episodes / EVALUATION_BATTLES)


def _check_backend(backend: str, options: dict[str, Any] | None) -> None:
    check_choice(get_args(Backend), backend=backend)
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"backend_options must be a dict of the back end's arguments, got {options!r}")
    if backend == "embedded" and options:
        hint = in_this_form(next(iter(options)))
        raise ValueError(f"backend_options: backend 'embedded' has none, got {', '.join(options)}{hint}")
    for option, argument in ARGUMENTS.items():
        if option in (options or {}):
            name = "seed_everything" if argument == "seed" else f"data.{argument}"
            raise ValueError(f"backend_options: {option} is not one of them; {name} sets it")
