"""No operation of an update may round by number of threads, or a laptop and a cluster would train different teams."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from amal.algorithms.amal.algorithm import AMAL

NORMS = ("norms/feature_norm", "norms/layer_norm", "norms/death_mask")
THREADS = 3  # divides few sizes, so that a thread's share ends somewhere in a vector register
# a replay buffer would be compared as a whole, whenever something is drawn from it
LESS_OF_IMAGINATION = (
    *("--model.imagination.warm_up", "0", "--model.imagination.starts", "64", "--model.world_model.steps", "1"),
    *("--model.imagination.auxiliaries.starts", "1", "--model.imagination.n_epochs", "1"),
)
LESS_OF_AMAL = (
    "--model.world_model.buffer_size",
    "3000",
    "--model.auxiliaries.auxiliary_buffer_size",
    "100",
    "--model.world_model.steps",
    "1",
)


class OnSeveralThreads(TorchDispatchMode):
    """Does every operation on one thread too, wherever the code does not insist on one itself, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.compared, self.differing = 0, set[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        no_result = torch.Tag.nondeterministic_seeded in function.tags or "empty" in str(function)
        if no_result or torch.get_num_threads() == 1:
            return function(*args, **kwargs)
        in_place = function._schema.is_mutable
        copies = tree_map_only(Tensor, Tensor.clone, (args, kwargs)) if in_place else (args, kwargs)
        torch.set_num_threads(1)
        expected = function(*copies[0], **copies[1])
        torch.set_num_threads(THREADS)
        found = function(*args, **kwargs)
        results = tree_leaves((expected, copies)), tree_leaves((found, (args, kwargs)))
        pairs = [pair for pair in zip(*results, strict=True) if isinstance(pair[0], Tensor)]
        self.compared += len(pairs)
        if not all(torch.equal(one.nan_to_num(), several.nan_to_num()) for one, several in pairs):
            self.differing.add(f"{function} of {[tuple(x.shape) for x in tree_leaves(args) if isinstance(x, Tensor)]}")
        return found


@pytest.mark.parametrize(
    "configs",
    [
        ("mappo",),
        ("mappo_gru",),
        ("amal_paper",),
        ("amal",),
        ("amal_paper", "ablations/paper/information_gain"),
        ("mappo", "critics/film"),
        ("mappo", "critics/dual_path"),
        ("mappo", "critics/attention"),
        ("mappo", *NORMS),
        ("mappo_gru", *NORMS),
        ("happo",),
        ("mappo", "networks/entities"),
        ("vdn",),
        ("qmix",),
    ],
    ids=" ".join,
)
def test_no_operation_of_an_update_rounds_by_number_of_threads(
    cli: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configs: tuple[str, ...]
) -> None:
    mode = OnSeveralThreads()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def on_several_threads(*args: Any, **kwargs: Any) -> Any:
            torch.set_num_threads(THREADS)
            with mode:
                return function(*args, **kwargs)

        return on_several_threads

    monkeypatch.setattr(Strategy, "training_step", watched(Strategy.training_step))
    monkeypatch.setattr(AMAL, "evolve", watched(AMAL.evolve))
    # it holds for the thread that entered it
    for user in ("mappo", "amal.world_model_learning"):
        monkeypatch.setattr(f"amal.algorithms.{user}.side_by_side", lambda first, second: (first(), second()))
    files = [word for name in configs for word in ("--config", f"configs/{name}.yaml")]
    short = ("--data.scenario", "2s3z", "--data.env_steps", "1", "--evaluation.every_n_episodes", "0")
    if configs[0] in ("vdn", "qmix"):
        few: tuple[str, ...] = ("--model.batch_size", "8", "--model.episodes_per_step", "8")
    else:
        less = {"amal_paper": LESS_OF_AMAL, "amal": LESS_OF_IMAGINATION}.get(configs[0], ())
        few = ("--model.n_epochs", "1", *less)
    threads = torch.get_num_threads()
    try:
        cli("fit", *files, *short, *few, "--out", tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert mode.compared > (100 if configs[0] in ("vdn", "qmix", "happo") else 1000) and not mode.differing
