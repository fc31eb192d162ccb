"""What a team is paid: SMAC's points (Samvelyan et al. 2019, arXiv:1902.04043, section 5), scaled."""

from amal.battle.compilation import kernel

# points; every point of an enemy's hp and shield that is taken is worth one more
KILL_REWARD = 10.0
VICTORY_REWARD = 200.0

FLAWLESS_RETURN = 20.0  # of all rewards of a victory over enemies that do not recover


@kernel
def reward_scale(n_enemies, health):  # type: ignore[no-untyped-def]
    """What points are divided by, so that they become rewards.

    Args:
        n_enemies: at the start.
        health: sum of their full hp and shields.
    """
    return (KILL_REWARD * n_enemies + VICTORY_REWARD + health) / FLAWLESS_RETURN
