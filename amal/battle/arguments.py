"""Checks of the arrays that battles are given: one line that names the argument, what is allowed and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from amal.runtime.argument_checks import check_choice

SIDES = ("ally", "enemy")


def checked_mask(battles: Any, num_battles: int) -> np.ndarray:
    """[E] bool, all of them where there is no mask. Raises ValueError for anything but a boolean mask."""
    if battles is None:
        return np.ones(num_battles, np.bool_)
    allowed = f"battles must be a boolean mask of shape [E] = ({num_battles},)"
    mask = _array(battles, allowed)
    if mask.dtype != np.bool_ or mask.shape != (num_battles,):
        raise ValueError(f"{allowed}, got {mask.dtype} {mask.shape}")
    return mask


def checked_actions(actions: Any, shape: tuple[int, ...], name: str = "actions", axes: str = "[E, N]") -> np.ndarray:
    """The actions as int64. Raises ValueError for anything but integers of the shape, available or not."""
    allowed = f"{name} must be integers of shape {axes} = {shape}"
    array = _array(actions, allowed)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"{allowed}, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int64)


def checked_positions(positions: Any, shape: tuple[int, ...], edge: float) -> np.ndarray:
    """The positions as float64. Raises ValueError for anything but numbers of the shape from 0 to ``edge``."""
    allowed = f"positions must be numbers of shape [E, U, 2] = {shape}"
    array = _array(positions, allowed)
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(f"{allowed}, got {array.shape} of {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    outside = array[~((array >= 0.0) & (array <= edge))]  # NaN too
    if outside.size:
        raise ValueError(f"positions must be finite and on the field, 0 to {edge:g}, got {outside[0]:g}")
    return array


def check_side(side: str) -> None:
    """Raises ValueError for anything but 'ally' and 'enemy'."""
    check_choice(SIDES, side=side)


def check_saved(state: Any, mine: Mapping[str, np.ndarray], whose: str) -> None:
    """Raises ValueError unless a saved state has the arrays of mine; what an opponent did may be there or not."""
    if not isinstance(state, Mapping):
        raise ValueError(f"battle state must be a mapping of names to arrays, got {type(state).__name__}")
    for name in state:
        if name not in mine and name != "opponent_actions":
            raise ValueError(f"battle state has {name!r}, but {whose} have none")
    for name, array in mine.items():
        if name not in state:
            if name == "opponent_actions":
                continue
            raise ValueError(f"battle state lacks {name!r}")
        saved = np.asarray(state[name])
        if saved.shape != array.shape:
            raise ValueError(f"battle state {name!r} has shape {saved.shape}, but {whose} have {array.shape}")
        if saved.dtype != array.dtype:
            raise ValueError(f"battle state {name!r} is of {saved.dtype}, but {whose} have {array.dtype}")


def _array(value: Any, allowed: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # numpy does not say of what
        raise ValueError(f"{allowed}, got rows of different lengths") from None
