"""Tables of a report with rounded numbers, and as Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from amal.study.analysis.comparison import Comparison

LATEX_WIDTH = 58  # characters of a row in \footnotesize that a column of 8 cm holds
_LATEX = str.maketrans(
    {"×": r"$\times$", "∞": r"$\infty$", "−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$"}
    | {"|": r"\textbar{}"}
)


def number(value: Any, digits: int = 2) -> str:
    """'0.93', '12,300', '∞', or nothing for NaN."""
    if value is None or math.isnan(value):
        return ""
    rounded = round(value, digits) + 0.0  # makes 0 of −0
    return f"{rounded:,.{digits}f}".replace("-", "−").replace("inf", "∞")


def estimate(value: float, low: float, high: float, digits: int = 2) -> str:
    """'0.93 [0.90, 0.96]', without the bracket where there is no interval, as of a single seed."""
    ends = [number(end, digits) for end in (low, high)]
    return number(value, digits) + (f" [{', '.join(ends)}]" if all(ends) else "")


def with_interval(row: Mapping[Any, Any], name: str, digits: int = 2) -> str:
    """The value of that name with its interval, of a row of a table."""
    value, low, high = (row.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
    return estimate(value, low, high, digits)


def difference(row: Mapping[Any, Any]) -> str:
    """'+0.40 [0.21, 0.54]'."""
    return "+" * (row["difference"] > 0) + with_interval(row, "difference")


def count(number: int, noun: str) -> str:
    """'1 seed' or '2 seeds'."""
    return f"{number} {noun}{'s' * (number != 1)}"


def p_value(value: float) -> str:
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _place(row: Mapping[str, Any]) -> dict[str, str]:
    return {"scenario": row["scenario"], "algorithm": row["algorithm"], "seeds": str(row["seeds"])}


def _estimates(table: pd.DataFrame, places: Sequence[str], columns: Mapping[str, tuple[str, int]]) -> pd.DataFrame:
    """The columns of places as they are, and by title those of values, of so many digits, with their intervals."""
    rows = [
        {name: str(row[name]) for name in places}
        | {title: with_interval(row, name, digits) for title, (name, digits) in columns.items()}
        for row in _rows(table)
    ]
    return pd.DataFrame(rows)


def final_scores(summary: pd.DataFrame) -> pd.DataFrame:
    """Per scenario and algorithm, the mean over seeds with its interval."""
    columns = {"win rate": ("win_rate", 2), "return": ("return", 1), "episode length": ("episode_length", 0)}
    columns |= {"dead allies": ("dead_allies", 1), "dead enemies": ("dead_enemies", 1), "AUC": ("auc", 2)}
    some = {"win rate, sampled": ("sampled_win_rate", 2), "win rate, greedy": ("greedy_win_rate", 2)}
    some |= {"best, tested": ("tested_best", 2), "last, tested": ("tested_last", 2)}
    columns |= {title: column for title, column in some.items() if column[0] in summary}
    return _estimates(summary, ("scenario", "algorithm", "seeds"), columns)


def tests(summary: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Per scenario and algorithm, its final win rate against the baseline's; without columns for what one seed
    does not allow."""
    rows = [
        {
            **_place(row),
            "difference": difference(row),
            "Welch p": p_value(row["welch_p"]),
            "Welch p (Holm)": p_value(row["welch_p_holm"]),
            "MW p": p_value(row["mann_whitney_p"]),
            "MW p (Holm)": p_value(row["mann_whitney_p_holm"]),
            "Cohen's d": with_interval(row, "cohens_d", 1),
        }
        for row in _rows(summary)
        if row["algorithm"] != comparison.baseline and "difference" in row and not math.isnan(row["difference"])
    ]
    return _without_empty(pd.DataFrame(rows), ("Welch p", "Welch p (Holm)", "MW p", "MW p (Holm)", "Cohen's d"))


def _without_empty(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The table without those of the named columns that are empty in all rows."""
    return table.drop(columns=[name for name in names if name in table and (table[name] == "").all()])


def aggregates(table: pd.DataFrame) -> pd.DataFrame:
    columns = {"IQM": ("iqm", 2), "median": ("median", 2), "mean": ("mean", 2), "optimality gap": ("optimality_gap", 2)}
    columns |= {"P(improvement)": ("improvement", 2)}
    return _estimates(table, ("algorithm", "scenarios", "seeds"), columns)


def sample_efficiency(table: pd.DataFrame) -> pd.DataFrame:
    """Per scenario and algorithm: env steps of its runs ('>' marks censored ones) and ratios to the baseline."""
    rows = []
    for row in _rows(table):
        place, target = _place(row), number(row["threshold"])
        if row["note"]:
            rows.append({**place, "target": target, "arrived": "", "env steps of each run": row["note"]})
            continue
        ratios = {
            title: _bounded(row, axis) for title, axis in (("env steps ×", "env_steps"), ("episodes ×", "episodes"))
        }
        tests = {"log-rank p": row["env_steps_log_rank_p"], "p (Holm)": row["env_steps_log_rank_p_holm"]}
        rows.append(
            {
                **place,
                "target": target,
                "arrived": f"{row['reached']:.0f} of {row['seeds']}",
                "env steps of each run": " ".join(map(_grouped, row["env_steps_by_run"].split())),
                **ratios,
                **{title: p_value(value) for title, value in tests.items()},
            }
        )
    return _without_empty(pd.DataFrame(rows).fillna(""), ("log-rank p", "p (Holm)"))


def _grouped(steps: str) -> str:
    """'>500412' as '>500k'; the exact numbers are in the CSV."""
    value = float(steps.lstrip(">"))
    short = f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.3g}k" if value >= 1e3 else f"{value:.0f}"
    return ">" * steps.startswith(">") + short


def _bounded(row: Mapping[str, Any], axis: str) -> str:
    bound = row.get(f"{axis}_bound")
    if bound == "none reached":
        return bound
    return (bound if isinstance(bound, str) else "") + with_interval(row, f"{axis}_ratio")


def cost(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            **_place(row),
            "training (min)": number(row["wall_seconds"] / 60, 1),
            "env steps/s": number(row["env_steps_per_second"], 0),
            "peak memory (MB)": number(row["peak_memory_mb"], 0),
            "equal time (min)": number(row["equal_wall_seconds"] / 60, 1),
            "win rate by then": with_interval(row, "win_rate_at_equal_wall_time"),
            "equal policy steps": number(row.get("equal_policy_steps", math.nan), 0),
            "win rate after them": with_interval(row, "win_rate_at_equal_policy_steps"),
        }
        for row in _rows(table)
    ]
    return pd.DataFrame(rows)


def runs(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reindex(columns=[*table.columns, *({"final_win_rate", "code_version"} - set(table.columns))])
    rows = [
        {
            **{"scenario": row["scenario"], "algorithm": row["algorithm"], "seed": str(row["seed"])},
            **{"state": row["state"], "counts": "yes" if row["in_statistics"] else "no"},
            "final win rate": number(row["final_win_rate"]),
            "code": row["code_version"] if isinstance(row["code_version"], str) else "",
            "folder": str(row["folder"]),
        }
        for row in _rows(table)
    ]
    return pd.DataFrame(rows)


def diagnostics(table: pd.DataFrame) -> pd.DataFrame:
    """A row per scenario and metric, a column per algorithm."""
    if table.empty:
        return table
    rows = pd.MultiIndex.from_frame(table[["scenario", "metric"]].drop_duplicates())
    wide = table.pivot(index=["scenario", "metric"], columns="algorithm", values="mean")
    wide = wide.loc[rows, table["algorithm"].unique()]
    shown = wide.map(lambda value: "" if math.isnan(value) else f"{value:.3g}".replace("-", "−"))
    return shown.reset_index().rename_axis(columns=None)


def markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "".join(f"| {' | '.join(_line(cell).replace('|', '/') for cell in line)} |\n" for line in lines)


def _line(cell: object) -> str:
    """A cell's text without line ends, which would break its row."""
    return " ".join(str(cell).split())


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """Tables with booktabs' rules that are no wider than a column of a paper: columns that do not fit go into another
    table, with the first one again.

    Args:
        table: what is in its first column, a scenario, becomes a row of its own above those that it is in.
        caption: plain text; where there are several tables, their number follows.
        label: of the first table, as in ``tab:final``; the others have their number behind it.
    """
    text = _under_headings(table.map(_line))
    parts = _in_columns(text)
    written = []
    for number, names in enumerate(parts, start=1):
        told = f"{caption} ({number} of {len(parts)})" if len(parts) > 1 else caption
        words = text[names].to_latex(
            index=False,
            escape=True,
            column_format="@{}l" + "r" * (len(names) - 1) + "@{}",
            caption=told.replace("%", r"\%").replace("_", r"\_"),
            label=label + f"-{number}" * (number > 1),
            position="tb",
        )
        small = "[tb]\n\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{3pt}\n"
        written.append(words.replace("[tb]\n", small, 1).translate(_LATEX))
    return "\n".join(written)


def _under_headings(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its first column, whose values are rows above those that have them."""
    heading, name, *others = table.columns
    rows: list[dict[str, str]] = []
    for value, part in table.groupby(heading, sort=False):
        rows.append({name: str(value)} | dict.fromkeys(others, ""))
        rows += _rows(part.drop(columns=heading))
    return pd.DataFrame(rows)


def _in_columns(table: pd.DataFrame) -> list[list[str]]:
    """Names of the columns of each part, no wider than ``LATEX_WIDTH`` if a column fits beside the first."""
    widths = {name: max(map(len, [name, *table[name]])) + 2 for name in table}  # with the space between columns
    first, *others = table.columns
    parts = [[first]]
    for name in others:
        if len(parts[-1]) > 1 and sum(widths[each] for each in parts[-1]) + widths[name] > LATEX_WIDTH:
            parts.append([first])
        parts[-1].append(name)
    return parts


def to_html(table: pd.DataFrame) -> str:
    """Numbers are aligned right, words left. Intervals stand below their values, and on a phone each row is a list."""
    if table.empty:
        return "<p>Nothing yet.</p>"
    left = {name for name in table if name in _WORDS}
    head = "".join(f"<th{' class=l' * (name in left)}>{html.escape(name)}</th>" for name in table.columns)
    body = "".join(
        f"<tr>{''.join(_cell(name, cell, name in left) for name, cell in zip(table.columns, line, strict=True))}</tr>"
        for line in table.to_numpy()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_WORDS = {"scenario", "algorithm", "state", "folder", "code", "metric", "env steps of each run"}


def _cell(name: str, content: object, left: bool) -> str:
    text = html.escape(str(content).strip())
    if not left:
        text = re.sub(r" (\[.*\])$", r" <small>\1</small>", text)
    return f'<td{" class=l" * left} data-name="{html.escape(name)}">{text}</td>'
