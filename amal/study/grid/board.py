"""What ``compare`` prints: a live table on a terminal, else a line for each cell that ends; and the summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from amal.study.grid.runs import Cell, last_row

REFRESH_SECONDS = 1.0

State = Literal["finished", "running", "failed", "waiting"]


class Board:
    """The states of all cells and the progress of their runs, read from their folders.

    Args:
        parallel: cells that run at a time.
    """

    def __init__(self, cells: Sequence[Cell], parallel: int, console: Console) -> None:
        self.states: dict[Cell, State] = {cell: "finished" if cell.is_finished() else "waiting" for cell in cells}
        self.failures: dict[Cell, str] = {}
        self.parallel = parallel
        self._training = {cell: last_row(cell.folder / "metrics.csv") for cell in cells}
        self._evaluation = {cell: last_row(cell.folder / "evaluations.csv") for cell in cells}
        self._console, self._live = (
            console,
            None if not console.is_terminal else Live(console=console, auto_refresh=False),
        )
        self._begin, self._next_refresh = time.monotonic(), 0.0

    def of_state(self, state: State) -> list[Cell]:
        return [cell for cell, s in self.states.items() if s == state]

    @contextmanager
    def show(self) -> Iterator[None]:
        """Keep the live table on the terminal within the context."""
        if self._live is None:
            self._print(self.headline())
            yield
            return
        with self._live:
            self.refresh()
            yield
            self.refresh(at_once=True)

    def begin(self, cell: Cell) -> None:
        self.states[cell] = "running"

    def end(self, cell: Cell, failure: str) -> None:
        """Record how a cell ended; ``failure`` is empty if it succeeded."""
        if not failure and not cell.is_finished():
            failure = "ended without being finished"
        self.states[cell] = "failed" if failure else "finished"
        self._read(cell)
        if failure:
            self.failures[cell] = failure
        if failure or self._live is None:
            win_rate = self._evaluation[cell].get("win_rate")
            result = failure or ("" if win_rate is None else f"win rate {win_rate:.0%}")
            self._print(" · ".join(filter(None, [f"{self.states[cell]} {cell}", result, self.headline()])))

    def put_back(self) -> None:
        """Record that the running cells were stopped."""
        for cell in self.of_state("running"):
            self.states[cell] = "finished" if cell.is_finished() else "waiting"

    def refresh(self, at_once: bool = False) -> None:
        """Read the running cells' files again and draw the table, at most once in ``REFRESH_SECONDS``."""
        if self._live is not None and (at_once or time.monotonic() >= self._next_refresh):
            for cell in self.of_state("running"):
                self._read(cell)
            self._live.update(self.table(), refresh=True)
            self._next_refresh = time.monotonic() + REFRESH_SECONDS

    def table(self) -> Table:
        """A row for each algorithm and scenario. In 80 columns long names break, and figures do not."""
        table = Table(title=self.headline(), title_justify="left", box=SIMPLE, pad_edge=False, collapse_padding=True)
        table.add_column("algorithm", overflow="fold")
        table.add_column("scenario", overflow="fold")
        states: tuple[State, ...] = ("running", "failed") if self.failures else ("running",)
        for column in ("finished", *states, "trained", "win rate", "steps/s"):
            table.add_column(column, justify="right", no_wrap=True)
        for (algorithm, scenario), cells in self._rows().items():
            counts = Counter(self.states[cell] for cell in cells)
            steps = sum(self._training[cell].get("env_steps", 0) for cell in cells)
            rates = [row["win_rate"] for row in map(self._evaluation.__getitem__, cells) if "win_rate" in row]
            speed = sum(self._speed(cell) for cell in cells if self.states[cell] == "running")
            trained = min(1.0, steps / sum(cell.env_steps for cell in cells))  # the last updates go beyond the budget
            figures = (f"{trained:.0%}", f"{fmean(rates):.0%}" if rates else "", f"{speed:,.0f}" if speed else "")
            finished = f"{counts['finished']} of {len(cells)}"
            table.add_row(algorithm, scenario, finished, *(str(counts[state] or "") for state in states), *figures)
        return table

    def headline(self) -> str:
        """'3 of 20 finished · 0:01:30 passed · about 0:20:00 left'."""
        passed = timedelta(seconds=round(time.monotonic() - self._begin))
        left = self.seconds_left()
        words = [f"{len(self.of_state('finished'))} of {len(self.states)} finished", f"{passed} passed"]
        if left:
            words.append(f"about {timedelta(seconds=round(left))} left")
        return " · ".join(words)

    def seconds_left(self) -> float | None:
        """Estimated from the speeds of each row's own runs, as scenarios differ; None before any speed is known."""
        speeds = {row: [s for s in map(self._speed, cells) if s] for row, cells in self._rows().items()}
        known = [speed for row in speeds.values() for speed in row]
        if not known:
            return None
        seconds = []
        for row, cells in self._rows().items():
            speed = fmean(speeds[row] or known)
            for cell in cells:
                if self.states[cell] in ("running", "waiting"):
                    done = self._training[cell].get("env_steps", 0)
                    seconds.append(max(0.0, cell.env_steps - done) / speed)
        return max(sum(seconds) / self.parallel, max(seconds, default=0.0))

    def summary(self, study: Path, signals: Sequence[int] = ()) -> int:
        """Print how the study ended. Returns the exit code of the command."""
        print_error = Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print
        if self.failures:
            print_error(f"{len(self.failures)} of {len(self.states)} runs failed:")
        for cell, failure in self.failures.items():
            error = cell.last_error()
            print_error(f"  {cell}: {failure} · {_short(cell.log)}" + (f" · {error}" if error else ""))
        left = len(self.states) - len(self.of_state("finished"))
        if signals and left:
            print_error(f"stopped with {left} of {len(self.states)} runs left; resume with the same command")
            return 128 + signals[0]
        if self._live is not None or not self.of_state("finished"):
            self._print(f"{self.headline()} · {study}")
        return 1 if self.failures else 0

    def _rows(self) -> dict[tuple[str, str], list[Cell]]:
        rows: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.states:
            rows.setdefault((cell.algorithm, cell.scenario), []).append(cell)
        return rows

    def _speed(self, cell: Cell) -> float:
        return self._training[cell].get("env_steps_per_second", 0.0)

    def _read(self, cell: Cell) -> None:
        self._training[cell] = last_row(cell.folder / "metrics.csv")
        self._evaluation[cell] = last_row(cell.folder / "evaluations.csv")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _short(path: Path) -> Path:
    """Relative to the working directory if it is in there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
