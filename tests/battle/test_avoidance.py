"""Kernels of collision avoidance that the recordings alone would not pin down."""

import math

import numba
import numpy as np

from amal.battle.avoidance import rounded_square


@numba.njit(error_model="numpy")
def squares(x: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.array([rounded_square(each, two) for each in x])


def test_squares_are_those_of_the_c_library_to_the_last_bit() -> None:
    """Whose pow differs from x·x once in a thousand; over the magnitudes that velocities and distances have."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, 300_000) * 10.0 ** rng.uniform(-6.0, 2.0, 300_000)
    x[:3] = 0.0, 1.0, 1e-12
    expected = np.array([math.pow(each, 2.0) for each in x.tolist()])
    assert (expected != x * x).any()
    two = np.full(1, 2.0)
    np.testing.assert_array_equal(squares(x, two), expected)
    np.testing.assert_array_equal([rounded_square.py_func(each, two) for each in x[:3000]], expected[:3000])
