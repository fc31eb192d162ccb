"""RolloutDataModule: owns the battles, their random streams and the count of environment steps."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, IterableDataset

from amal.backends.battles import EpisodeLost, WorkerBattles
from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.battle.compilation import simulator_hash
from amal.battle.scenario import check_same_content, in_this_form, load_scenario
from amal.battle.vector import MOST_BATTLES
from amal.rollout.collector import Actor, EpisodeRecorder
from amal.rollout.load_policy import load_opponent
from amal.runtime.argument_checks import LARGEST_COUNT, check_choice, check_whole
from amal.runtime.distributed import collected, gathered, of_this_process, processes, rank
from amal.runtime.machine import share_threads
from amal.runtime.random_streams import Stream, stream_seed
from amal.types import Battles, EpisodeBatch

EVALUATION_BATTLES = 32
VALIDATION_EPISODES = 32
TEST_EPISODES = 320

# What back ends are told by other arguments than backend_options.
SET_HERE = {
    "seed": "seed_everything",
    "map_name": "data.scenario",
    "id": "data.scenario",
    "episode_limit": "data.episode_limit",
    "max_episode_steps": "data.episode_limit",
    "disable_env_checker": "the back end",
}

Backend = Literal["embedded", "starcraft2", "smaclite"]


class RolloutDataModule(LightningDataModule):
    """Plays the battles that training learns from, always with the policy of the moment.

    Processes that train together play different battles. The budget and the counts are of all of them.

    Args:
        scenario: name of a scenario, which ``scenarios`` lists, or path of a YAML file with one.
        env_steps: budget in environment steps, also written as 1e6; training ends with the first update that reaches
            it.
        episodes: budget in episodes instead, met exactly; several processes round it up to as many for each.
        episodes_per_update: whole episodes that each update learns from, in each process.
        num_envs: battles that are played at once, in each process.
        episode_limit: steps until an episode is truncated; by default the scenario's.
        backend: what runs the battles: 'embedded', the compiled simulator; 'starcraft2', the original SMAC; or
            'smaclite', the original SMAClite. The latter two play each battle in a process of its own, and evaluate in
            the same num_envs processes.
        backend_options: other arguments of that back end's constructor.
        opponent: checkpoint of a run whose policy drives the enemies, greedily and without learning, in evaluations
            too; by default they follow their script. Both teams must be equal.
    """

    def __init__(
        self,
        scenario: str,
        env_steps: int | float | None = None,
        episodes: int | float | None = None,
        episodes_per_update: int = 32,
        num_envs: int = 8,
        episode_limit: int | None = None,
        backend: Backend = "embedded",
        backend_options: dict[str, Any] | None = None,
        opponent: str | None = None,
    ) -> None:
        super().__init__()
        if env_steps is not None and episodes is not None:
            raise ValueError("env_steps and episodes are both set; a budget is one or the other")
        check_whole(1, LARGEST_COUNT, episodes_per_update=episodes_per_update)
        check_whole(1, MOST_BATTLES, num_envs=num_envs)
        budget: dict[str, Any] = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in (("env_steps", env_steps), ("episodes", episodes))
            if value is not None
        }
        check_whole(1, LARGEST_COUNT, **budget)
        if num_envs > episodes_per_update:
            raise ValueError(
                f"num_envs must be at most episodes_per_update ({episodes_per_update}), got {num_envs}: "
                "more battles would stand idle"
            )
        check_choice(get_args(Backend), backend=backend)
        if backend_options is not None and not isinstance(backend_options, dict):
            raise ValueError(f"backend_options must be a dict of the back end's arguments, got {backend_options!r}")
        if backend == "embedded" and backend_options:
            hint = in_this_form(next(iter(backend_options)))
            raise ValueError(f"backend_options: backend 'embedded' has none, got {', '.join(backend_options)}{hint}")
        for name, argument in SET_HERE.items():
            if name in (backend_options or {}):
                raise ValueError(f"backend_options: {name} is not one of them; {argument} sets it")
        self.seed = torch.initial_seed()
        self.env_steps = 0  # played for training so far
        self.episodes = 0
        self.episodes_per_update, self.num_envs = episodes_per_update, num_envs
        self.backend = backend
        self._worker_arguments = (scenario, episode_limit, backend_options)
        self._workers: WorkerBattles | None = None
        # only the embedded simulator tells who fights where
        self.scenario: Scenario | None = load_scenario(scenario, episode_limit) if backend == "embedded" else None
        self.spec = self._in_workers().spec if self.scenario is None else self.scenario.spec()
        self.n_agents, self.n_actions = self.spec.n_agents, self.spec.n_actions
        self.obs_dim, self.state_dim = self.spec.obs_dim, self.spec.state_dim
        self.env_steps_budget, self.episodes_budget = budget.get("env_steps"), budget.get("episodes")
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
        self._earlier_seconds = 0.0  # of training, in earlier sessions of this run
        self._session_start, self._session_first_step = time.monotonic(), 0

    @property
    def progress(self) -> float:
        """Share of the budget that is used, in [0, 1]; 0 without a budget."""
        if self.episodes_budget is not None:
            return min(1.0, self.episodes / self.episodes_budget)
        if self.env_steps_budget is not None:
            return min(1.0, self.env_steps / self.env_steps_budget)
        return 0.0

    @property
    def max_updates(self) -> int:
        """How many updates the budget can last at most: every episode has at least one step."""
        budget = self.episodes_budget or self.env_steps_budget
        if budget is None:
            raise ValueError("training needs a budget: set --data.env_steps or --data.episodes")
        return math.ceil(budget / (self.episodes_per_update * processes()))

    @property
    def wall_seconds(self) -> float:
        """Training time so far, over all sessions of a resumed run."""
        return self._earlier_seconds + time.monotonic() - self._session_start

    @property
    def env_steps_per_second(self) -> float:
        """Speed of training in this session, evaluations included."""
        seconds = time.monotonic() - self._session_start
        return (self.env_steps - self._session_first_step) / max(seconds, 1e-9)

    @property
    def has_played(self) -> bool:
        """Whether any episode of training was played in this session."""
        return self.env_steps > self._session_first_step

    def setup(self, stage: str) -> None:
        share_threads()

    def train_dataloader(self) -> DataLoader[EpisodeBatch]:
        self._session_start, self._session_first_step = time.monotonic(), self.env_steps
        return DataLoader(_TrainingEpisodes(self), batch_size=None)

    def val_dataloader(self) -> DataLoader[EpisodeBatch] | list[Any]:
        assert self.trainer is not None
        if self.trainer.state.fn == TrainerFn.FITTING:
            return []  # there the Evaluation callback keeps its own schedule
        return DataLoader(_EvaluationEpisodes(self, "evaluation", VALIDATION_EPISODES), batch_size=None)

    def test_dataloader(self) -> DataLoader[EpisodeBatch]:
        return DataLoader(_EvaluationEpisodes(self, "test", TEST_EPISODES), batch_size=None)

    def play_training_episodes(self) -> EpisodeBatch:
        """The next batch of the training module's own episodes; counts them."""
        actor = self._actor()
        if self._recorder is None:
            battle = self._battles("battles", self.num_envs, first_battle=rank() * self.num_envs)
            self._recorder = EpisodeRecorder(battle, self.episodes_per_update, self.opponent)
            self._generator = torch.Generator(device=actor.device).manual_seed(stream_seed(self.seed, "policy", rank()))
            self._restore()
        episodes = self.episodes_per_update
        if self.episodes_budget is not None:
            episodes = min(episodes, math.ceil((self.episodes_budget - self.episodes) / processes()))
        batch = self._play(self._recorder, episodes, self._generator)
        self.env_steps += sum(gathered(int(batch.mask.sum())))
        self.episodes += episodes * processes()
        return batch

    def play_evaluation_episodes(
        self, stream: Stream = "evaluation", episodes: int = VALIDATION_EPISODES, number: int = 0
    ) -> Iterator[EpisodeBatch]:
        """Greedy episodes on battles of their own, 32 at a time, one on each battle.

        Args:
            stream: random stream of the battles.
            episodes: how many in all.
            number: of the evaluation; each has other battles, always the same ones.
        """
        for first in range(0, episodes, EVALUATION_BATTLES):
            count = min(EVALUATION_BATTLES, episodes - first)
            battle = self._battles(stream, EVALUATION_BATTLES, first_battle=number * episodes + first)
            if self._evaluation_recorder is None:
                self._evaluation_recorder = EpisodeRecorder(battle, EVALUATION_BATTLES, self.opponent)
            self._evaluation_recorder.battle = battle
            yield self._play(self._evaluation_recorder, count)

    @property
    def restarts(self) -> int:
        """How often a process of another back end was replaced in this session."""
        return 0 if self._workers is None else self._workers.restarts

    def teardown(self, stage: str) -> None:
        """Ends the processes of another back end; whoever plays on gets new ones."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def on_exception(self, exception: BaseException) -> None:
        self.teardown("exception")

    def state_dict(self) -> dict[str, Any]:
        streams: dict[str, Any] = {}
        if self._recorder is not None and self._generator is not None:
            if isinstance(self._recorder.battle, VectorBattle):
                battle = self._recorder.battle.state_dict()
                streams["battle"] = {name: torch.from_numpy(array) for name, array in battle.items()}
            streams["generator"] = self._generator.get_state()
        return {
            "scenario": {} if self.scenario is None else {"name": self.scenario.name, "digest": self.scenario.digest},
            "opponent_sha256": self.opponent_sha256,
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "wall_seconds": self.wall_seconds,
            "processes": collected(streams),
            "simulator_hash": simulator_hash(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.scenario is not None:
            check_same_content(self.scenario, state_dict.get("scenario", {}))
        self.env_steps, self.episodes = state_dict["env_steps"], state_dict["episodes"]
        self._earlier_seconds = state_dict["wall_seconds"]
        self._session_first_step = self.env_steps
        self._restored = [dict(streams) for streams in state_dict["processes"]]
        self.teardown("restore")  # the processes of another back end would play the battles again that were played
        if self._recorder is not None:
            self._restore()

    def _restore(self) -> None:
        """Puts the battles and the policy's random stream back to where a checkpoint left them."""
        assert self._recorder is not None and self._generator is not None
        streams = of_this_process(self._restored) if self._restored else {}
        if "battle" in streams and isinstance(self._recorder.battle, VectorBattle):
            battle = {name: tensor.cpu().numpy() for name, tensor in streams["battle"].items()}
            self._recorder.battle.load_state_dict(battle)
        if "generator" in streams:
            self._generator.set_state(streams["generator"].cpu())
        self._restored = []

    def _actor(self) -> Actor:
        assert self.trainer is not None
        return self.trainer.lightning_module  # type: ignore[return-value]

    def _play(self, recorder: EpisodeRecorder, episodes: int, generator: torch.Generator | None = None) -> EpisodeBatch:
        """The recorder's episodes, all of them played anew when one was lost: none is favoured for being short."""
        if self.backend != "embedded":
            recorder.battle = self._in_workers()
        while True:
            try:
                return recorder.play(self._actor(), episodes, generator, self.progress)
            except EpisodeLost as lost:
                print(f"{lost}; playing this batch of {episodes} again", file=sys.stderr)

    def _battles(self, stream: Stream, num_battles: int, first_battle: int) -> Battles:
        if self.scenario is None:
            return self._in_workers()
        return VectorBattle(
            self.scenario,
            num_battles,
            seed=stream_seed(self.seed, stream),
            auto_reset=False,
            first_battle=first_battle,
            driven_enemy=self.opponent is not None,
        )

    def _in_workers(self) -> WorkerBattles:
        """The battles of another back end, which training and evaluation share. Their random streams cannot be saved,
        so those that are started later in a run get others."""
        if self._workers is None:
            scenario, episode_limit, options = self._worker_arguments
            seed = stream_seed(self.seed, "battles", rank(), played=self.episodes)
            self._workers = WorkerBattles(self.backend, scenario, self.num_envs, seed, episode_limit, options)
        return self._workers


def data_of(trainer: Trainer) -> RolloutDataModule:
    """The data module of a run."""
    data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


class _TrainingEpisodes(IterableDataset[EpisodeBatch]):
    """Batches of episodes until the budget is met. It has a length, for without one Lightning fetches a batch ahead,
    played by a policy that is one update old."""

    def __init__(self, data: RolloutDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.max_updates

    def __iter__(self) -> Iterator[EpisodeBatch]:
        while self.data.progress < 1.0:
            yield self.data.play_training_episodes()


class _EvaluationEpisodes(IterableDataset[EpisodeBatch]):
    """Batches of greedy episodes."""

    def __init__(self, data: RolloutDataModule, stream: Stream, episodes: int) -> None:
        self.data, self.stream, self.episodes = data, stream, episodes

    def __len__(self) -> int:
        return math.ceil(self.episodes / EVALUATION_BATTLES)

    def __iter__(self) -> Iterator[EpisodeBatch]:
        yield from self.data.play_evaluation_episodes(self.stream, self.episodes)
