"""A battle's own random stream: splitmix64 on battle.random_state."""

import numpy as np

from amal.battle.compilation import kernel


@kernel
def next_random(state):  # type: ignore[no-untyped-def]
    """(next state, 64 random bits)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@kernel
def below(bits, n):  # type: ignore[no-untyped-def]
    """A whole number from 0 to n - 1 made of random bits."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@kernel
def draw_below(battle, n):  # type: ignore[no-untyped-def]
    """The next whole number from 0 to n - 1."""
    battle.random_state, bits = next_random(battle.random_state)
    return below(bits, n)


@kernel
def draw_share(battle):  # type: ignore[no-untyped-def]
    """The next number in [0, 1)."""
    battle.random_state, bits = next_random(battle.random_state)
    return np.int64(bits >> np.uint64(11)) * 2.0**-53
