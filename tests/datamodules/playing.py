"""A data module's episodes, without a trainer that asks for them."""

from collections.abc import Iterator
from typing import Any

from amal.types import EpisodeBatch
from datamodules import RolloutDataModule


def play(data: RolloutDataModule) -> EpisodeBatch:
    """The next batch of training."""
    return data.source.play_training(data.trainer.lightning_module)  # type: ignore[union-attr, arg-type]


def evaluate(data: RolloutDataModule, **options: Any) -> Iterator[EpisodeBatch]:
    """The batches of an evaluation."""
    return data.source.play_evaluation(data.trainer.lightning_module, **options)  # type: ignore[union-attr, arg-type]
