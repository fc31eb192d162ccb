"""RolloutDataModule: streams episodes of the policy of the moment into training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, IterableDataset

from amal.battle.compilation import simulator_hash
from amal.runtime.distributed import processes
from amal.runtime.machine import share_threads
from amal.types import Actor, EpisodeBatch
from datamodules.budget import Budget
from datamodules.episode_source import TEST_EPISODES, VALIDATION_EPISODES, Backend, EpisodeSource, batches_of


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
        backend: what runs the battles: 'embedded', the compiled simulator; 'starcraft2', the original SMAC; 'smacv2',
            the original SMACv2; or 'smaclite', the original SMAClite. The originals play each battle in a process of
            its own, and evaluate in the same num_envs processes.
        backend_options: other arguments of that back end's constructor.
        opponent: checkpoint of a run whose policy drives the enemies, greedily and without learning, in evaluations
            too; by default they follow their script. Both teams must be equal.
        random_delay: whether the embedded simulator draws for every shot how much later or sooner than its cooldown the
            next one comes, within the scenario's bounds or, if it has none, -1 to 2 ticks of 1/16 s, as StarCraft II
            does; or [least, most] for other bounds. False: as the scenario says; those that ship have no delay.
        snapshots: record the memory of the embedded simulator with each step, to imagine in the simulator itself
            (``configs/ablations/perfect_model.yaml``).
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
        random_delay: bool | list[int] | Any = False,  # Any: else the parser refuses, and cannot say what is allowed
        snapshots: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["_instantiator"])  # of the command line, and no hyper-parameter
        self.budget = Budget(env_steps, episodes)
        self.source = EpisodeSource(
            self.budget,
            torch.initial_seed(),
            scenario,
            episodes_per_update,
            num_envs,
            episode_limit,
            backend,
            backend_options,
            opponent,
            random_delay,
            snapshots,
        )
        self.scenario = self.source.scenario  # the command line hands this to algorithms that ask for it
        spec = self.source.spec
        self.n_agents, self.n_actions = spec.n_agents, spec.n_actions  # the command line hands these to the algorithm
        self.obs_dim, self.state_dim = spec.obs_dim, spec.state_dim
        self.layout = spec.layout  # for algorithms that take it

    @property
    def max_updates(self) -> int:
        """How many updates the budget can last at most. Raises ValueError without a budget."""
        return self.budget.max_updates(self.source.episodes_per_update * processes())

    def setup(self, stage: str) -> None:
        share_threads()

    def train_dataloader(self) -> DataLoader[EpisodeBatch]:
        self.budget.start_session()
        return _loader(self._training_batches, self.max_updates)

    def val_dataloader(self) -> DataLoader[EpisodeBatch] | list[Any]:
        assert self.trainer is not None
        if self.trainer.state.fn == TrainerFn.FITTING:
            return []  # there the Evaluation callback keeps its own schedule
        return self._evaluation_loader("evaluation", VALIDATION_EPISODES)

    def test_dataloader(self) -> DataLoader[EpisodeBatch]:
        return self._evaluation_loader("test", TEST_EPISODES)

    def predict_dataloader(self) -> DataLoader[EpisodeBatch]:
        """The greedy episodes that ``validate`` plays."""
        return _loader(lambda: self.source.play_evaluation(self._actor()), batches_of(VALIDATION_EPISODES))

    def _training_batches(self) -> Iterator[EpisodeBatch]:
        while not self.budget.is_met:
            yield self.source.play_training(self._actor())

    def _evaluation_loader(self, stream: Any, episodes: int) -> DataLoader[EpisodeBatch]:
        return _loader(lambda: self.source.play_both_ways(self._actor(), stream, episodes), 2 * batches_of(episodes))

    def teardown(self, stage: str) -> None:
        self.source.close()

    def on_exception(self, exception: BaseException) -> None:
        self.source.close()

    def state_dict(self) -> dict[str, Any]:
        return {**self.budget.state_dict(), **self.source.state_dict(), "simulator_hash": simulator_hash()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.budget.load_state_dict(state_dict)
        self.source.load_state_dict(state_dict)

    def _actor(self) -> Actor:
        assert self.trainer is not None
        return self.trainer.lightning_module  # type: ignore[return-value]


def budget_of(trainer: Trainer) -> Budget:
    """What a run may use and has used."""
    budget: Budget = trainer.datamodule.budget  # type: ignore[attr-defined]
    return budget


def source_of(trainer: Trainer) -> EpisodeSource:
    """Where a run's episodes come from."""
    source: EpisodeSource = trainer.datamodule.source  # type: ignore[attr-defined]
    return source


class _Batches(IterableDataset[EpisodeBatch]):
    """Batches that are played when they are asked for. It has a length, for without one Lightning fetches a batch
    ahead, played by a policy that is one update old."""

    def __init__(self, play: Callable[[], Iterable[EpisodeBatch]], length: int) -> None:
        self.play, self.length = play, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[EpisodeBatch]:
        yield from self.play()


def _loader(play: Callable[[], Iterable[EpisodeBatch]], length: int) -> DataLoader[EpisodeBatch]:
    return DataLoader(_Batches(play, length), batch_size=None)
