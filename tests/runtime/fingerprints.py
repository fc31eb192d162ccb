"""What each of several processes writes down in a test: what it played, its parameters afterwards, and its sums."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from amal.ops.losses import masked_moments
from amal.runtime.distributed import average_gradients, averaged, pooled, rank
from amal.types import EpisodeBatch


class Fingerprints(Callback):
    """Writes ``rank_R.csv`` into the run's folder, a row per update: a hash of all parameters and buffers, one of the
    observations that were played, their episodes and their steps."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        state = hashlib.sha256()
        for name, tensor in pl_module.state_dict().items():
            state.update(name.encode() + tensor.contiguous().numpy().tobytes())
        played = hashlib.sha256(batch.obs.numpy().tobytes())
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"rank_{trainer.global_rank}.csv").open("a", newline="") as file:
            row = (state.hexdigest(), played.hexdigest(), len(batch.mask), int(batch.mask.sum()))
            csv.writer(file).writerow(row)


def save_sums(folder: str) -> None:
    """Writes ``sums_R.pt``: numbers of this process, and what all processes make of theirs together."""
    generator = torch.Generator().manual_seed(rank())
    x = torch.randn(5 + 3 * rank(), generator=generator)
    mask = torch.rand(x.shape, generator=generator) < 0.7
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.full((1, 2), 1.0 + rank())
    layer.bias.grad = torch.full((1,), 4.0) if rank() else None
    average_gradients(layer)
    metrics = averaged({"both": torch.tensor(1.0 + rank())} | ({"one": torch.tensor(7.0)} if rank() else {}))
    sums = {
        "counted": x[mask].tolist(),
        "moments": [moment.item() for moment in pooled(masked_moments(x, mask))],
        "gradients": [parameter.grad.flatten().tolist() for parameter in layer.parameters()],
        "metrics": {name: value.item() for name, value in metrics.items()},
    }
    torch.save(sums, Path(folder) / f"sums_{rank()}.pt")
