"""What every algorithm is to the rest of the project."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from amal.algorithms.metric_groups import grouped
from amal.rollout.load_policy import rebuild
from amal.rollout.statistics import BattleStatistics
from amal.runtime.argument_checks import check_at_least
from amal.runtime.checkpoints import check_fits, check_is_file, read_checkpoint
from amal.runtime.configuration import OF_BATTLES
from amal.runtime.distributed import average_gradients, averaged, collected, of_this_process, without_reducer
from amal.runtime.plain_data import plain
from amal.types import ActionScores, EpisodeBatch

MUST_BE_FINITE = ("_loss", "_grad_norm")  # ends of metrics' names


class NonFiniteLoss(RuntimeError):
    """A loss or a gradient became NaN or infinite; the parameters can no longer be used."""


def check_finite(metrics: dict[str, Tensor]) -> None:
    """Raise ``NonFiniteLoss`` naming every loss and gradient norm that is not finite. One synchronisation with the
    device."""
    checked = {name: value for name, value in metrics.items() if name.endswith(MUST_BE_FINITE)}
    if not checked:
        return
    values = torch.stack(list(checked.values())).tolist()
    broken = [f"{name} = {value}" for name, value in zip(checked, values, strict=True) if not abs(value) < float("inf")]
    if broken:
        raise NonFiniteLoss(f"{', '.join(broken)}: the update diverged; try a lower lr or max_grad_norm")


def averages(steps: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each metric over several steps that all have the same ones; nothing without steps."""
    return {name: torch.stack([step[name] for step in steps]).mean() for name in (steps[0] if steps else ())}


class Algorithm(LightningModule):
    """A team that plays and learns.

    An algorithm has ``act`` and ``learn``, and ``configure_optimizers`` as every LightningModule. The rest has a
    default here. Letters: E battles, N agents, O observation size, A actions, H hidden state.

    Optimisation is manual: ``learn`` steps the optimizers, best by ``descend``.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int) -> None:
        super().__init__()
        self._record_arguments()
        check_at_least(1, n_agents=n_agents, n_actions=n_actions, obs_dim=obs_dim, state_dim=state_dim)
        self.automatic_optimization = False
        self.n_agents = n_agents
        self.statistics = BattleStatistics()
        self.evaluations = 0  # so far in training

    @property
    def current_epoch(self) -> int:
        """Number of evaluations so far. To the trainer all training is one epoch; callbacks that count a module's
        epochs, such as Optuna's, count evaluations instead."""
        return self.evaluations

    def _record_arguments(self) -> None:
        """Keeps the arguments of the constructor as plain data in ``hparams``, for loggers and checkpoints."""
        self.save_hyperparameters()
        # checkpoints name the scenario elsewhere, with the state of the battles
        given = {name: x for name, x in self.hparams.items() if not name.startswith("_") and name not in OF_BATTLES}
        self.hparams.clear()
        self.hparams.update(algorithm=plain(type(self)).get("class_path", ""), **plain(given))
        self._hparams_initial = copy.deepcopy(self._hparams)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, **arguments: Any
    ) -> Self:
        """The algorithm as it was at a checkpoint of a run, ready to act; its learning state stays behind.

        The file is read as data only. Classes that it names have to be this project's, those of the module of ``cls``
        or allowed by ``amal.runtime.trusted_code.allow_only``.

        Args:
            checkpoint_path: ``last.ckpt``, ``best.ckpt`` or another one.
            map_location: device that it is put on; by default the CPU.
            arguments: of the constructor, in place of those that the checkpoint holds.

        Raises:
            CheckpointError: the file is damaged, of another algorithm, or does not fit these arguments.
            ForeignCode: it names code that nobody has allowed. Both are ValueErrors.
        """
        path = Path(checkpoint_path)
        check_is_file(path)
        content = read_checkpoint(path)
        module = rebuild(cls, content, path, arguments)
        check_fits(content["state_dict"], module, path, f"the arguments of {cls.__name__}")
        module.load_state_dict(content["state_dict"])
        return module.to(map_location or "cpu").eval()  # type: ignore[return-value]

    # --- playing ------------------------------------------------------------------------------------------------------

    def initial_hidden(self, num_battles: int) -> Tensor:
        """[E, N, H], the memory at the start of an episode; by default there is none, H = 0."""
        return torch.zeros(num_battles, self.n_agents, 0, device=self.device)

    @abstractmethod
    def act(
        self,
        obs: Tensor,
        available_actions: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Choose actions for E battles; the recorder calls it in inference mode.

        Args:
            obs: [E, N, O].
            available_actions: [E, N, A] bool.
            hidden: [E, N, H], from ``initial_hidden`` at the start of an episode, then from the last call.
            generator: source of all that is random; None acts greedily.
            progress: share of the training budget that is used, in [0, 1], for schedules of exploration.

        Returns:
            Actions [E, N] int64; their log-probabilities [E, N], or None where there are none; the next hidden state.
        """

    def action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores | None:
        """What the algorithm thinks of all actions, for the player to show; None shows nothing. Arguments as of
        ``act``."""
        return None

    # --- learning -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """One update from fresh episodes.

        Args:
            batch: whole episodes of the current policy. Each batch has its own memory, so it may be kept after the
                update.
            progress: share of the training budget that was used before the batch, for schedules of learning.

        Returns:
            Scalars to log, as "train/…". Those that end in ``_loss`` or ``_grad_norm`` must be finite.
        """

    def learning_state(self) -> Any:
        """State that only learning needs, beside parameters, buffers and optimizers: replay, random streams. Tensors
        and plain data only. last.ckpt holds it for every process; best.ckpt, which is for playing, does not."""
        return {}

    def load_learning_state(self, state: Any) -> None:
        """Puts back what ``learning_state`` returned."""

    def check_episodes(self, episodes_per_update: int, snapshots: bool) -> None:
        """Raise ValueError if updates from this many episodes, with or without snapshots, are impossible."""

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """One update; logs its metrics together with what its episodes were like."""
        metrics = averaged(self.learn(batch, batch.progress))
        check_finite(metrics)
        episodes = {
            "train/return": batch.returns.mean(),
            "train/win_rate": batch.won.float().mean(),
            "train/episode_length": batch.lengths.float().mean(),
        }
        metrics |= averaged(episodes)
        shown = {grouped(name): value for name, value in metrics.items()}
        unshown = {name: value for name, value in metrics.items() if name not in shown}  # callbacks know them by these
        self.log_dict(shown, batch_size=len(batch.rewards))
        self.log_dict(unshown, batch_size=len(batch.rewards), logger=False)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self.statistics.update(batch)

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self.statistics.update(batch)

    def predict_step(self, batch: EpisodeBatch, batch_idx: int) -> EpisodeBatch:
        return batch

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"eval/{name}": value for name, value in self.statistics.compute().items()})
        self.statistics.reset()

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    # --- what algorithms are made of ----------------------------------------------------------------------------------

    def all_optimizers(self) -> list[LightningOptimizer]:
        """In the order of ``configure_optimizers``, wrapped: only steps of the wrappers are counted by Lightning."""
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def descend(self, optimizer: LightningOptimizer, network: nn.Module, loss: Tensor, max_grad_norm: float) -> Tensor:
        """One optimizer step on a loss, with gradients averaged over the processes and clipped to ``max_grad_norm``;
        returns their norm before clipping."""
        optimizer.zero_grad()
        with without_reducer(self.trainer.model):
            self.manual_backward(loss)
        average_gradients(network)
        # torch's own clipping, for Lightning's does not tell the norm
        norm = nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
        optimizer.step()
        return norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" in checkpoint:
            checkpoint["learning_state"] = collected(self.learning_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.training:
            self.load_learning_state(of_this_process(checkpoint["learning_state"]))
