"""From episodes to minibatches."""

from typing import Any

import pytest
import torch

from amal.algorithms.minibatches import packed_lives, rows_of
from tests.algorithms.episodes import SMALL_MLP, random_batch
from tests.algorithms.test_mappo import NORMED_GRU, SMALL_GRU, small


@pytest.mark.parametrize("policy", [SMALL_MLP, SMALL_GRU], ids=["mlp", "gru"])
def test_minibatches_cover_the_valid_steps_once_per_epoch(policy: Any) -> None:
    batch = random_batch(0)
    module = small(policy=policy, n_epochs=3, n_minibatch=64)
    minibatches = module.minibatches(batch, module.estimate_advantages(batch)[0])
    assert len(minibatches) == 3 * 5  # capped at the number of episodes
    for epoch in range(3):
        rows = torch.cat([m.steps for m in minibatches[5 * epoch : 5 * epoch + 5]])
        assert rows.sort().values.tolist() == list(range(int(batch.mask.sum())))
    assert not torch.equal(minibatches[0].steps, minibatches[5].steps)


def test_minibatches_pack_lives_longest_first() -> None:
    """Also where only one agent of one episode is left."""
    happened = torch.tensor([[True, True, True], [True, False, False]])
    alive = torch.tensor([[[1, 1], [1, 0], [1, 0]], [[0, 1], [0, 0], [0, 0]]], dtype=torch.bool)
    rows, batch_sizes = packed_lives(happened, alive)  # of [4, 2]: agent 0 has three steps, agent 1 one in each episode
    assert rows.tolist() == [0, 1, 7, 2, 4] and batch_sizes.tolist() == [[1, 2], [1, 0], [1, 0]]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "independent"])
@pytest.mark.parametrize("policy", [SMALL_GRU, NORMED_GRU], ids=["plain", "normed"])
def test_recurrent_minibatches_give_the_logits_of_whole_episodes(policy: Any, shared: bool) -> None:
    """Walking only the living, packed by the length of their lives, is walking everything from the beginning."""
    batch = random_batch(0)
    module = small(policy=policy, share_parameters=shared)
    transitions, _ = module.estimate_advantages(batch)
    padded, _ = module.policy(batch.obs[:, :-1], module.policy.initial_hidden(len(batch.mask)))
    expected = padded[batch.mask]
    assert not transitions.alive.all()
    for minibatch in module.minibatches(batch, transitions):
        lived = transitions[minibatch.steps]
        logits = module.policy.at_rows(lived.obs, minibatch.rows, minibatch.batch_sizes)
        wanted = expected[minibatch.steps].flatten(0, 1)[minibatch.rows]
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)
        assert minibatch.rows.sort().values.tolist() == rows_of(lived.alive).tolist()
