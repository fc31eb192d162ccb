"""Data modules: where training data comes from."""

from datamodules.rollout import RolloutDataModule

__all__ = ["RolloutDataModule"]
