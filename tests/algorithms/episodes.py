"""What training needs in a test: small networks, made-up episodes, and a trainer without trimmings."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, IterableDataset

from amal.algorithms.base import Algorithm
from amal.networks.critics import MAPPOCritic
from amal.networks.policies import MLPPolicy
from amal.types import EpisodeBatch

N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM = 3, 5, 6, 7
SIZES = {"n_agents": N_AGENTS, "n_actions": N_ACTIONS, "obs_dim": OBS_DIM, "state_dim": STATE_DIM}
SMALL_MLP = partial(MLPPolicy, hidden_sizes=(16, 16))
SMALL_CRITIC = partial(MAPPOCritic, hidden_sizes=(16, 16))


class Batches(IterableDataset[EpisodeBatch]):
    """A fixed number of batches, each asked for when it is needed."""

    def __init__(self, make: Callable[[int], EpisodeBatch], n_batches: int) -> None:
        self.make = make
        self.n_batches = n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[EpisodeBatch]:
        return (self.make(i) for i in range(self.n_batches))


def train(
    module: Algorithm, make: Callable[[int], EpisodeBatch], n_batches: int, trainer: dict[str, Any] | None = None
) -> Trainer:
    training = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(trainer or {}),
    )
    training.fit(module, DataLoader(Batches(make, n_batches), batch_size=None))
    return training


def random_batch(seed: int, lengths: tuple[int, ...] = (4, 1, 6, 3, 6)) -> EpisodeBatch:
    """Episodes of the given lengths; agent 2 dies after two steps, odd episodes are truncated."""
    g = torch.Generator().manual_seed(seed)
    n_episodes, n_steps = len(lengths), max(lengths)
    mask = torch.arange(n_steps) < torch.tensor(lengths).unsqueeze(-1)
    ends = torch.arange(n_steps) == torch.tensor(lengths).unsqueeze(-1) - 1
    odd = (torch.arange(n_episodes) % 2 == 1).unsqueeze(-1)
    available = torch.rand(n_episodes, n_steps + 1, N_AGENTS, N_ACTIONS, generator=g) < 0.5
    available[..., 1], available[..., 0] = True, False
    available[:, 2:, 2] = torch.tensor([True] + [False] * (N_ACTIONS - 1))
    actions = (torch.rand(available[:, :-1].shape, generator=g) * available[:, :-1]).argmax(-1)
    return EpisodeBatch(
        obs=torch.randn(n_episodes, n_steps + 1, N_AGENTS, OBS_DIM, generator=g),
        state=torch.randn(n_episodes, n_steps + 1, STATE_DIM, generator=g),
        available_actions=available,
        actions=actions,
        log_probs=-available[:, :-1].sum(-1).float().log(),
        rewards=torch.rand(n_episodes, n_steps, generator=g) * mask,
        terminated=ends & ~odd,
        truncated=ends & odd,
        mask=mask,
        won=torch.arange(n_episodes) % 2 == 0,
        dead_allies=torch.ones(n_episodes, dtype=torch.int64),
        dead_enemies=torch.zeros(n_episodes, dtype=torch.int64),
        progress=0.25,
    )


def parameters(module: Algorithm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def matching_game(
    module: Algorithm, generator: torch.Generator, n_updates: int, scores: list[float], index: int
) -> EpisodeBatch:
    """32 one-step battles: all agents see the same sign, and the team scores the share of them that answer with its
    action, so each has to find its own part in a reward that the others' choices blur."""
    n_episodes = 32
    sign = torch.randint(1, N_ACTIONS, (n_episodes,), generator=generator)
    obs = torch.nn.functional.one_hot(sign, OBS_DIM).float()[:, None, None].expand(-1, 2, N_AGENTS, -1).contiguous()
    state = torch.nn.functional.one_hot(sign, STATE_DIM).float()[:, None].expand(-1, 2, -1).contiguous()
    available = torch.ones(n_episodes, 2, N_AGENTS, N_ACTIONS, dtype=torch.bool)
    available[..., 0] = False
    hidden = module.initial_hidden(n_episodes)
    with torch.inference_mode():
        actions, log_probs, _ = module.act(obs[:, 0], available[:, 0], hidden, generator, index / n_updates)
    rewards = (actions == sign.unsqueeze(-1)).float().mean(dim=-1, keepdim=True)
    scores.append(rewards.mean().item())
    ones = torch.ones(n_episodes, 1, dtype=torch.bool)
    nothing = torch.zeros(n_episodes, dtype=torch.int64)
    return EpisodeBatch(
        obs=obs,
        state=state,
        available_actions=available,
        actions=actions.clone().unsqueeze(1),
        log_probs=torch.zeros(actions.shape).unsqueeze(1) if log_probs is None else log_probs.clone().unsqueeze(1),
        rewards=rewards,
        terminated=ones,
        truncated=~ones,
        mask=ones,
        won=rewards.squeeze(-1) == 1,
        dead_allies=nothing,
        dead_enemies=nothing,
        progress=index / n_updates,
    )
