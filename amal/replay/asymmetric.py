"""Replay of real and imagined transitions, in separate stores that are never mixed up.

The world model learns from real experience only. Its batches come from their own store, are drawn with their own random
stream, and have a type that rejects imagined experience. Only the open-gate ablation relabels it, explicitly.

Letters: M transitions, N agents, O observation size, S state size, A actions, B episodes, T time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from amal.replay.experience import (
    REAL,
    Experience,
    ProvenanceError,
    RealExperience,
    RealSequences,
    real_columns,
)
from amal.runtime.argument_checks import check_at_least, check_share
from amal.types import EpisodeBatch

MAPPED_ABOVE = 2 * 2**30  # bytes; a larger buffer goes into files unless told otherwise
SIZES = ("capacity", "n_agents", "obs_dim", "state_dim", "n_actions", "num_auxiliary_agents", "auxiliary_capacity")


class _Ring:
    """A circular table: the newest of the rows that were written, as many as it has room for."""

    def __init__(self, rows: NDArray[np.void]) -> None:
        self.rows = rows
        self.written = 0  # ever; tells both how many are stored and where the next one goes

    def __len__(self) -> int:
        return min(self.written, len(self.rows))

    def write(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Adds M rows, given as one array [M, …] per field."""
        capacity = len(self.rows)
        number = len(columns["provenance"])
        skipped = max(number - capacity, 0)
        start = (self.written + skipped) % capacity
        wrap = min(skipped + capacity - start, number)
        for name, column in columns.items():
            stored = self.rows[name]
            stored[start : start + wrap - skipped] = column[skipped:wrap]
            if wrap < number:
                stored[: number - wrap] = column[wrap:]
        self.written += number


class AsymmetricReplayBuffer:
    """Real transitions in one circular store, those that auxiliary agents imagined in a store per agent.

    What ``sample_primary`` draws depends only on the seed, the real transitions and earlier draws with
    ``primary_stream``. Imagined experience and ``sample_mixed`` do not change it.

    Args:
        capacity: real transitions kept, the newest.
        n_agents: N.
        obs_dim: O.
        state_dim: S.
        n_actions: A.
        num_auxiliary_agents: how many agents imagine; may be 0.
        auxiliary_capacity: transitions kept of each of them.
        memory_map: whether the stores are files instead of memory; None: if they exceed 2 GiB.
        folder: where those files go, in a new folder that is removed with the buffer; None: the system's temporary one.
            ``OSError`` if there is no room for them: here, not in the middle of a run.
        seed: of what is drawn.
        snapshot_size: bytes of the simulator's memory that come with each real step; 0 without.
    """

    def __init__(
        self,
        capacity: int,
        n_agents: int,
        obs_dim: int,
        state_dim: int,
        n_actions: int,
        num_auxiliary_agents: int = 16,
        auxiliary_capacity: int = 10_000,
        memory_map: bool | None = None,
        folder: str | Path | None = None,
        seed: int = 0,
        snapshot_size: int = 0,
    ) -> None:
        sizes = (capacity, n_agents, obs_dim, state_dim, n_actions, num_auxiliary_agents, auxiliary_capacity)
        self._sizes = dict(zip(SIZES, sizes, strict=True))
        check_at_least(0, num_auxiliary_agents=num_auxiliary_agents)
        check_at_least(1, **{name: size for name, size in self._sizes.items() if name != "num_auxiliary_agents"})

        self._record = _record(n_agents, obs_dim, state_dim, n_actions)
        # beside the real steps: how many of its episode came before each, and the simulator's memory
        self._steps = np.zeros(capacity, np.int64)
        self._snapshots = np.zeros((capacity if snapshot_size else 0, snapshot_size), np.uint8)
        lengths = {"primary": capacity, "auxiliary": num_auxiliary_agents * auxiliary_capacity}
        needed = sum(lengths.values()) * self._record.itemsize
        if needed > MAPPED_ABOVE if memory_map is None else memory_map:
            rows = self._map_files(lengths, needed, Path(folder or tempfile.gettempdir()))
        else:
            rows = {name: np.zeros(length, self._record) for name, length in lengths.items()}
        self._imagined = rows["auxiliary"]
        self._primary = _Ring(rows["primary"])
        self._auxiliary = [_Ring(part) for part in self._imagined.reshape(num_auxiliary_agents, auxiliary_capacity)]
        seeds = (np.random.SeedSequence([seed, stream]) for stream in (0, 1))
        self.primary_stream, self.mixed_stream = map(np.random.default_rng, seeds)

    def _map_files(self, lengths: Mapping[str, int], needed: int, parent: Path) -> dict[str, NDArray[np.void]]:
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="amal-replay-", dir=parent))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return {name: _map_file(folder / name, length, self._record) for name, length in lengths.items()}
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(parent).free if parent.exists() else 0
            reason = f"{needed} bytes needed, {free} bytes free ({error.strerror})"
            raise OSError(error.errno, f"cannot put the replay buffer into {parent}: {reason}") from error

    @property
    def capacity(self) -> int:
        """Real transitions that there is room for."""
        return self._sizes["capacity"]

    @property
    def primary_size(self) -> int:
        """Real transitions stored."""
        return len(self._primary)

    @property
    def auxiliary_sizes(self) -> list[int]:
        """Imagined transitions stored, of each auxiliary agent."""
        return [len(ring) for ring in self._auxiliary]

    def add_primary(self, transition: Mapping[str, ArrayLike]) -> None:
        """Adds one step that happened in the environment.

        ``transition`` has the fields of ``Experience`` without M; ``rewards`` may be a scalar, shared by the team, and
        ``provenance`` left out, else it is REAL. ``ValueError`` if a field is missing, unknown or of a wrong shape.
        """
        self._steps[self._primary.written % self.capacity] = 0  # nothing is known of what came before
        self._add(self._primary, REAL, transition)

    def add_auxiliary(self, agent_id: int, transition: Mapping[str, ArrayLike]) -> None:
        """Adds one step that an auxiliary agent imagined; as ``add_primary``, with ``agent_id`` as provenance."""
        if not 0 <= agent_id < len(self._auxiliary):
            raise ValueError(f"no auxiliary agent {agent_id}: there are {len(self._auxiliary)}, counted from 0")
        self._add(self._auxiliary[agent_id], agent_id, transition)

    def _add(self, ring: _Ring, provenance: int, transition: Mapping[str, ArrayLike]) -> None:
        claimed = transition.get("provenance", provenance)
        if claimed != provenance:
            raise ProvenanceError(f"a transition of provenance {claimed} is not for the store of {provenance}")
        columns = {**transition, "provenance": provenance}
        if np.ndim(columns.get("rewards", ())) == 0:
            columns["rewards"] = np.full(self._sizes["n_agents"], columns["rewards"])
        ring.write({name: column[None] for name, column in self._checked(columns, ()).items()})

    def add_primary_episodes(self, batch: EpisodeBatch) -> None:
        """Adds every step of B real episodes, in order and without padding; each agent gets the team's reward.

        A step is done if it ended the battle. After one that only reached the episode limit, the next views are what
        was seen at the episode's end, to be bootstrapped from. ``ValueError`` if a field has a wrong shape.
        """
        batch = batch.to("cpu")
        arrays = self._checked(real_columns(batch), tuple(batch.mask.shape))
        for episode, length in enumerate(batch.lengths.tolist()):
            slots = (self._primary.written + np.arange(length)) % self.capacity
            self._steps[slots] = np.arange(length)
            if self._snapshots.size:
                if batch.snapshots is None:
                    raise ValueError("the episodes come without snapshots: imagination.perfect needs data.snapshots")
                self._snapshots[slots] = batch.snapshots[episode, :length].numpy()
            self._primary.write({name: array[episode, :length] for name, array in arrays.items()})

    def add_auxiliary_batch(self, experience: Experience) -> None:
        """Adds imagined steps, each to the store of the auxiliary agent that its provenance names.

        Nothing is added if that is REAL or unknown in any (``ProvenanceError``) or a shape is wrong (``ValueError``).
        """
        tensors = {f.name: getattr(experience, f.name).detach().cpu() for f in fields(experience)}
        columns = self._checked(tensors, (len(experience),))
        imagined_by, agents = columns["provenance"], len(self._auxiliary)
        foreign = np.count_nonzero((imagined_by < 0) | (imagined_by >= agents))
        if foreign:
            raise ProvenanceError(f"{foreign} of {len(experience)} rows are of none of the {agents} auxiliary agents")
        for agent_id in np.unique(imagined_by).tolist():
            rows = np.flatnonzero(imagined_by == agent_id)
            self._auxiliary[agent_id].write({name: column[rows] for name, column in columns.items()})

    def _checked(self, columns: Mapping[str, Any], leading: tuple[int, ...]) -> dict[str, NDArray[Any]]:
        expected = {name: field[0].shape for name, field in (self._record.fields or {}).items()}
        for problem, names in (("missing", expected.keys() - columns), ("unknown", columns.keys() - expected)):
            if names:
                raise ValueError(f"{problem} in the transition: {', '.join(sorted(names))}")
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        for name, array in arrays.items():
            if array.shape != leading + expected[name]:
                raise ValueError(f"{name} has shape {array.shape}, expected {leading + expected[name]}")
        return arrays

    def sample_primary(self, batch_size: int, stream: np.random.Generator | None = None) -> RealExperience:
        """Real transitions, uniformly and with replacement.

        Args:
            batch_size: M, at least 1, else ``ValueError``, as if there are no real transitions.
            stream: what to draw them with instead of ``primary_stream``, which then stays as it is.

        Raises:
            ProvenanceError: if the store was corrupted.
        """
        self._check_sampling(batch_size)
        stream = self.primary_stream if stream is None else stream
        rows = np.empty(batch_size, self._record)
        _gather(self._primary.rows, stream.integers(self.primary_size, size=batch_size), rows)
        return RealExperience(**_tensors(rows))

    def sample_sequences(
        self, batch_size: int, length: int, newest: int | None = None, stream: np.random.Generator | None = None
    ) -> RealSequences:
        """Stretches of real steps that end at steps drawn uniformly and with replacement; errors as of
        ``sample_primary``.

        Args:
            batch_size: M.
            length: L.
            newest: among how many of the newest real steps the last one is; by default, all.
            stream: what to draw them with instead of ``primary_stream``, which then stays as it is.
        """
        self._check_sampling(batch_size)
        stream = self.primary_stream if stream is None else stream
        ring, stored = self._primary, self.primary_size
        oldest = ring.written - stored
        if newest is None:
            slots = stream.integers(stored, size=batch_size)
            numbers = oldest + (slots - oldest) % self.capacity
        else:
            numbers = ring.written - 1 - stream.integers(min(newest, stored), size=batch_size)
            slots = numbers % self.capacity
        last = np.empty(batch_size, self._record)
        _gather(ring.rows, slots, last)
        back = np.arange(length - 1, -1, -1)
        earlier = numbers[:, None] - back
        happened = (earlier >= oldest) & (back <= self._steps[slots][:, None])
        earlier %= self.capacity
        states = np.concatenate([ring.rows["state"][earlier], last["next_state"][:, None]], axis=1)
        if (ring.rows["provenance"][earlier][happened] != REAL).any():
            raise ProvenanceError("a stretch of real steps holds some that were imagined")
        return RealSequences(
            RealExperience(**_tensors(last)),
            torch.from_numpy(states),
            torch.from_numpy(ring.rows["actions"][earlier]),
            torch.from_numpy(happened),
            torch.from_numpy(self._snapshots[slots]) if self._snapshots.size else None,
        )

    def sample_mixed(self, batch_size: int, aux_ratio: float = 0.3) -> Experience:
        """Real transitions, then imagined ones, each uniformly and with replacement; errors as of ``sample_primary``.

        ``aux_ratio`` in [0, 1] is the share of imagined ones, rounded to whole transitions. They are uniform over all
        that is stored, whoever imagined it; while nothing is, every transition is real.
        """
        self._check_sampling(batch_size)
        check_share(aux_ratio=aux_ratio)
        stored = np.array(self.auxiliary_sizes, np.int64)
        total = int(stored.sum())
        real = batch_size - round(batch_size * aux_ratio) if total else batch_size
        rows = np.empty(batch_size, self._record)
        chosen = self.mixed_stream.integers(self.primary_size, size=real)
        _gather(self._primary.rows, chosen, rows[:real])
        if real < batch_size:
            chosen = self.mixed_stream.integers(total, size=batch_size - real)
            ends = stored.cumsum()
            agent_ids = ends.searchsorted(chosen, side="right")
            slots = chosen - (ends - stored)[agent_ids] + agent_ids * self._sizes["auxiliary_capacity"]
            _gather(self._imagined, slots, rows[real:])
        return Experience(**_tensors(rows))

    def _check_sampling(self, batch_size: int) -> None:
        check_at_least(1, batch_size=batch_size)
        if not self.primary_size:
            raise ValueError("there is no real experience to sample from")

    def state_dict(self) -> dict[str, Any]:
        """A copy of what is stored, the write positions and the random streams; for ``torch.save``."""
        rings = (self._primary, *self._auxiliary)
        names = self._record.names or ()
        return {
            "sizes": dict(self._sizes),
            "written": [ring.written for ring in rings],
            "rows": {name: torch.from_numpy(np.concatenate([r.rows[name][: len(r)] for r in rings])) for name in names},
            "steps": torch.from_numpy(self._steps[: len(self._primary)].copy()),
            "snapshots": torch.from_numpy(self._snapshots[: len(self._primary)].copy()),
            "streams": [stream.bit_generator.state for stream in (self.primary_stream, self.mixed_stream)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where ``state_dict`` was called, bit for bit; ``ValueError`` if that buffer had other sizes."""
        for name, size in self._sizes.items():
            if state["sizes"][name] != size:
                raise ValueError(f"the stored replay buffer has {name} {state['sizes'][name]}, this one has {size}")
        start = 0
        for ring, written in zip((self._primary, *self._auxiliary), state["written"], strict=True):
            ring.written = written
            for name, column in state["rows"].items():
                ring.rows[name][: len(ring)] = column[start : start + len(ring)].numpy()
            start += len(ring)
        for name, stored in (("steps", self._steps), ("snapshots", self._snapshots)):
            stored[: len(state[name])] = state[name].numpy()
        self.primary_stream.bit_generator.state, self.mixed_stream.bit_generator.state = state["streams"]


def _record(n_agents: int, obs_dim: int, state_dim: int, n_actions: int) -> np.dtype[np.void]:
    """A transition in one piece: to fetch it takes less time than to fetch each field from its own array."""
    agents, obs, state, available = (n_agents,), (n_agents, obs_dim), (state_dim,), (n_agents, n_actions)
    shapes = {
        np.int64: {"actions": agents, "provenance": ()},
        np.float32: {"obs": obs, "next_obs": obs, "state": state, "next_state": state}
        | {"log_probs": agents, "rewards": agents},
        np.bool_: {"available_actions": available, "next_available_actions": available, "done": ()},
    }
    columns = [(name, kind, shape) for kind, named in shapes.items() for name, shape in named.items()]
    return np.dtype(columns, align=True)  # torch refuses views that are not aligned


def _map_file(path: Path, length: int, record: np.dtype[np.void]) -> NDArray[np.void]:
    if not length:
        return np.zeros(0, record)  # an empty file cannot be mapped
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, length * record.itemsize)
    return np.asarray(np.memmap(path, record, "r+", shape=(length,)))


def _gather(stored: NDArray[np.void], chosen: NDArray[np.int64], out: NDArray[np.void]) -> None:
    """out[i] = stored[chosen[i]]; by torch, which shares the work among its threads as numpy does not."""
    words = (-1, stored.itemsize // 8)
    source, target = (torch.from_numpy(rows.view(np.int64)).view(words) for rows in (stored, out))
    torch.index_select(source, 0, torch.from_numpy(chosen), out=target)


def _tensors(rows: NDArray[np.void]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(rows[name]) for name in rows.dtype.names or ()}
