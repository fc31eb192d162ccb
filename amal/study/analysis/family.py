"""The family of a study's tests, which are corrected together (Holm 1979)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.statistics import holm

FINAL, SECOND_OPINION, ARRIVAL = "welch_p", "mann_whitney_p", "env_steps_log_rank_p"


def correct_p_values(
    comparison: Comparison, summary: pd.DataFrame, efficiency: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with a column NAME_holm after each column of p-values, for the rows of counted scenarios.

    The family has ``comparison.family`` tests: for every algorithm on every scenario one of the final win rate and one
    of the steps to the threshold. The Mann–Whitney test is a second opinion on the final win rate and is corrected in
    the place of Welch's. A planned test that was not made counts as p = 1.
    """
    tables = [_with_columns(summary, [FINAL, SECOND_OPINION]), _with_columns(efficiency, [ARRIVAL])]
    counted = [table["scenario"].isin(comparison.counted).to_numpy() for table in tables]
    for first in (SECOND_OPINION, FINAL):  # the last one stays in the second table
        names = first, ARRIVAL
        parts = [
            table.loc[rows, name].to_numpy(np.float64) for table, rows, name in zip(tables, counted, names, strict=True)
        ]
        adjusted = np.split(holm(np.concatenate(parts), comparison.family), [len(parts[0])])
        for table, rows, name, values in zip(tables, counted, names, adjusted, strict=True):
            table.loc[rows, f"{name}_holm"] = values
    return tables[0], tables[1]


def _with_columns(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A copy that has each of these columns, each followed by one for its correction."""
    columns = [*table.columns] if len(table) else ["scenario", "algorithm", "seeds"]
    columns += [name for name in names if name not in columns]
    for name in names:
        columns.insert(columns.index(name) + 1, f"{name}_holm")
    return table.reindex(columns=columns)
