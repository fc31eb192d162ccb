"""Training in several processes: what they add up, average, share and keep apart. In one process nothing happens.

Every function but ``processes``, ``rank`` and ``of_this_process`` waits for all processes: each must call it, in the
same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, counted from 0."""
    return dist.get_rank() if processes() > 1 else 0


def leave_group() -> None:
    """Ends what this process has open towards the others. For its exit: threads that are left to the interpreter's end
    sometimes abort it there."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gathered(value: T) -> list[T]:
    """A small value of every process, in the order of the ranks."""
    values = [value] * processes()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def collected(state: T) -> list[T]:
    """On rank 0 the states of all processes in the order of the ranks, for a checkpoint; nothing on the others."""
    if processes() == 1:
        return [state]
    states = [state] * processes() if rank() == 0 else None
    dist.gather_object(state, states)
    return states or []


def of_this_process(states: list[T]) -> T:
    """What this process gave to ``collected``; ``ValueError`` if there were more of them then, or fewer."""
    check_processes(len(states), processes())
    return states[rank()]


def check_processes(saved: int, now: int) -> None:
    """Raise ValueError if a checkpoint of ``saved`` processes is to be continued by another number."""
    if saved != now:
        raise ValueError(
            f"the checkpoint is of a run in {saved} process(es), each with battles and random streams of its own; "
            f"it cannot go on in {now}: set --trainer.devices and --trainer.num_nodes as they were"
        )


def of_first(x: Tensor) -> Tensor:
    """The tensor of rank 0; all have the same shape."""
    if processes() > 1:
        x = x.contiguous()
        dist.broadcast(x, src=0)
    return x


def summed(x: Tensor) -> Tensor:
    """The sum of the tensors of all processes, bit for bit the same on all."""
    if processes() > 1:
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def averaged(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each metric over the processes that have it."""
    if processes() == 1:
        return metrics
    every = gathered({name: float(value) for name, value in metrics.items()})
    values: dict[str, list[float]] = {}
    for one in every:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: torch.tensor(sum(all_of_it) / len(all_of_it)) for name, all_of_it in values.items()}


def pooled(moments: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of the numbers of all processes, from the scalars of each; bit for bit the same on
    all."""
    if processes() == 1:
        return moments
    mean, _, count = moments
    own = torch.stack([moment.double() for moment in moments])
    every = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(every, own)
    means, variances, counts = torch.stack(every).unbind(1)
    weights = counts / counts.sum().clamp_min(1.0)
    pooled_mean = (weights * means).sum()
    pooled_variance = (weights * (variances + (means - pooled_mean).square())).sum()
    return pooled_mean.to(mean.dtype), pooled_variance.to(mean.dtype), counts.sum().to(count.dtype)


@contextmanager
def without_reducer(model: nn.Module | None) -> Iterator[None]:
    """Keeps the wrapper that Lightning's ddp strategy puts around a module from averaging gradients in a backward pass.

    It expects every parameter of the module in every backward pass and would wait for those of the other losses
    forever; ``average_gradients`` does its work.
    """
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


@torch.no_grad()
def average_gradients(*networks: nn.Module) -> None:
    """Replaces the gradients of the networks by their means over all processes, bit for bit the same on all.

    A parameter that has no gradient here counts as 0, for it may have one elsewhere.
    """
    if processes() == 1:
        return
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
