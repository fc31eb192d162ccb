"""MAPPO whose critic learns from living agents only: what are the values of the dead worth? See docs/critics.md."""

from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, Transitions
from amal.ops.losses import clipped_value_loss, masked_mean


class MAPPOOfTheLiving(MAPPO):
    """The value loss leaves dead agents out; returns are made of their values all the same."""

    def critic_loss(self, transitions: Transitions, minibatch: Minibatch) -> Tensor:
        lived = transitions[minibatch.rows]
        values = self.critic(lived.state, lived.obs)
        loss = clipped_value_loss(
            values, lived.values, lived.targets, self.value_clip, self.value_loss, self.huber_delta
        )
        return masked_mean(loss, lived.alive)
