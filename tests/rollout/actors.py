"""Who plays in tests."""

import torch
from torch import Generator, Tensor

from amal.ops.losses import masked_log_softmax, sample_categorical


class RandomActor:
    """Chooses among the available actions, all equally often."""

    device = torch.device("cpu")

    def initial_hidden(self, num_battles: int) -> Tensor:
        return torch.zeros(num_battles, 1, 0)

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs = masked_log_softmax(torch.zeros(available_actions.shape), available_actions)
        actions = log_probs.argmax(dim=-1) if generator is None else sample_categorical(log_probs, generator)
        return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), hidden
