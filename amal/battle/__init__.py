"""The embedded battle simulator: SMAC battles without StarCraft II, as numpy arrays stepped by numba kernels."""

from amal.battle.vector import UnavailableAction, VectorBattle

__all__ = ["UnavailableAction", "VectorBattle"]
