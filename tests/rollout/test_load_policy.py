"""Playing with the weights of a checkpoint for a while."""

from functools import partial
from pathlib import Path

import pytest
import torch

from amal.algorithms.mappo import MAPPO
from amal.networks.policies import MLPPolicy
from amal.rollout.load_policy import checkpoint_weights
from tests.algorithms.episodes import SIZES, SMALL_CRITIC, assert_identical, parameters


def small(seed: int, hidden_size: int = 16) -> MAPPO:
    torch.manual_seed(seed)
    policy = partial(MLPPolicy, hidden_sizes=(hidden_size,))
    return MAPPO(**SIZES, policy=policy, critic=SMALL_CRITIC)  # type: ignore[arg-type]


def saved(module: MAPPO, path: Path) -> Path:
    torch.save({"state_dict": module.state_dict()}, path)
    return path


def test_a_module_plays_with_the_checkpoints_weights_and_goes_on_with_its_own(tmp_path: Path) -> None:
    last, best = small(0), small(1)
    own = parameters(last)
    with checkpoint_weights(last, saved(best, tmp_path / "best.ckpt")):
        assert_identical(parameters(last), parameters(best))
    assert_identical(parameters(last), own)


def test_its_own_weights_are_back_when_playing_raises(tmp_path: Path) -> None:
    last, best = small(0), saved(small(1), tmp_path / "best.ckpt")
    own = parameters(last)
    with pytest.raises(KeyboardInterrupt), checkpoint_weights(last, best):
        raise KeyboardInterrupt
    assert_identical(parameters(last), own)


def test_its_own_weights_are_back_when_only_some_of_the_checkpoints_fit(tmp_path: Path) -> None:
    """torch loads those that fit before it raises."""
    last, wider = small(0), saved(small(1, hidden_size=17), tmp_path / "best.ckpt")
    own = parameters(last)
    with pytest.raises(RuntimeError, match="size mismatch"), checkpoint_weights(last, wider):
        pass
    assert_identical(parameters(last), own)
