"""What a comparison found and how sure that is, in words; a defeat as plainly as a win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.efficiency import pooled_bound, pooled_ratio
from amal.study.analysis.tables import Bootstrap
from amal.study.report.formats import count, difference, estimate, with_interval

ALPHA = 0.05
PRELIMINARY_SEEDS, CLAIM_SEEDS = 5, 10
COVERAGE = (
    "In simulated studies, intervals of win rates held the true mean in 88 % of cases at worst, and in 96 % or more "
    "where one run in ten fails (docs/interval_coverage.py)."
)


class Verdict(NamedTuple):
    """The first lines of a report: what was found, and the numbers behind it."""

    headline: str
    sentences: list[str]


class _Finding(NamedTuple):
    """The counted scenarios on which a corrected test finds an algorithm better or worse than the baseline."""

    better: list[str]
    worse: list[str]
    tested: int  # scenarios

    def named(self, better: str = "better", worse: str = "worse") -> str:
        """'better on 3m, MMM; worse on 8m'."""
        sides = ((better, self.better), (worse, self.worse))
        return "; ".join(f"{word} on {', '.join(side)}" for word, side in sides if side) or "no significant difference"

    def counted(self) -> str:
        return f"better on {len(self.better)}, worse on {len(self.worse)} of {count(self.tested, 'scenario')}"


def judge(
    comparison: Comparison,
    algorithm: str,
    summary: pd.DataFrame,
    aggregates: pd.DataFrame,
    efficiency: pd.DataFrame,
    bootstrap: Bootstrap,
) -> Verdict:
    """The verdict on one algorithm against the baseline.

    A difference counts on a scenario where its p-value, corrected over the study's family of tests, is below 0.05: of
    Welch's test for the final win rate, of the log-rank test for the steps to the threshold.
    """
    if not comparison.counted:
        names = " and ".join(comparison.algorithms)
        return Verdict(f"No verdict: on no scenario that counts has a seed been finished by {names}.", [])
    scores, steps = (_rows(table, comparison, algorithm) for table in (summary, efficiency))
    wins, ranks = (_find(scores[f"{test}_p_holm"], scores["difference"]) for test in ("welch", "mann_whitney"))
    arrivals = _find(
        steps["env_steps_log_rank_p_holm"], 1 - steps.reindex(columns=["env_steps_ratio"])["env_steps_ratio"]
    )
    sentences = [
        _win_rate_sentence(comparison, algorithm, aggregates),
        f"Final win rate by Welch's t-test: {wins.named()}. By the Mann–Whitney test: {ranks.named()}. Both are "
        f"corrected over the study's {count(comparison.family, 'test')} (Holm).",
        _steps_sentence(comparison, algorithm, efficiency, arrivals, bootstrap),
    ]
    headline = _headline(comparison, algorithm, {"final win rate": wins, "sample efficiency": arrivals})
    return Verdict(headline, sentences if wins.tested else [sentences[0], sentences[2]])


def _rows(table: pd.DataFrame, comparison: Comparison, algorithm: str) -> pd.DataFrame:
    """Those of an algorithm on the counted scenarios, by scenario."""
    return table[table["algorithm"] == algorithm].set_index("scenario").loc[list(comparison.counted)]


def _find(p_values: pd.Series, advantage: pd.Series) -> _Finding:
    found = p_values < ALPHA
    better, worse = (list(p_values.index[found & side]) for side in (advantage > 0, advantage < 0))
    return _Finding(better, worse, int(p_values.notna().sum()))


def _headline(comparison: Comparison, algorithm: str, findings: Mapping[str, _Finding]) -> str:
    baseline, n = comparison.baseline, comparison.n_seeds
    if n == 1:
        return f"No verdict (1 seed, {PRELIMINARY_SEEDS} needed): one seed allows no test and no interval."
    tested = {measure: finding for measure, finding in findings.items() if finding.tested}
    ahead, behind = (
        any(finding.better for finding in tested.values()),
        any(finding.worse for finding in tested.values()),
    )
    if ahead or behind:
        word = "partly ahead of and partly behind" if ahead and behind else "ahead of" if ahead else "behind"
        counts = "; ".join(f"{measure} {finding.counted()}" for measure, finding in tested.items())
        found = f"{algorithm} is {word} {baseline}: {counts}."
    else:
        found = f"undecided, no significant difference between {algorithm} and {baseline} in {' or '.join(tested)}."
    if n < PRELIMINARY_SEEDS:
        return f"No verdict ({n} seeds, {PRELIMINARY_SEEDS} needed). So far: {found}"
    return f"With {n} seeds: {found}" if n >= CLAIM_SEEDS else f"Preliminary ({n} seeds, {CLAIM_SEEDS} needed): {found}"


def _win_rate_sentence(comparison: Comparison, algorithm: str, aggregates: pd.DataFrame) -> str:
    table, baseline = aggregates.set_index("algorithm").to_dict("index"), comparison.baseline
    ours, theirs = table[algorithm], table[baseline]
    return (
        f"Final win rate over {count(len(comparison.counted), 'scenario')}, interquartile mean: {algorithm} "
        f"{with_interval(ours, 'iqm')}, {baseline} {with_interval(theirs, 'iqm')}. Difference of the means: "
        f"{difference(ours)}. Probability that a run of {algorithm} ends above one of "
        f"{baseline}: {with_interval(ours, 'improvement')}."
    )


def _steps_sentence(
    comparison: Comparison, algorithm: str, efficiency: pd.DataFrame, finding: _Finding, bootstrap: Bootstrap
) -> str:
    baseline, rows = comparison.baseline, _rows(efficiency, comparison, algorithm)
    ratio, interval, scenarios = pooled_ratio(comparison, algorithm, bootstrap)
    reasons = "; ".join(f"{name}, {note or 'no run reached it'}" for name, note in rows["note"].drop(scenarios).items())
    if not scenarios:
        return f"Steps to 90 % of {baseline}'s final win rate cannot be compared: {reasons}."
    bound = {"≥": "at least ", "≤": "at most "}.get(pooled_bound(rows["env_steps_bound"].loc[scenarios]), "")
    text = (
        f"Environment steps to 90 % of {baseline}'s final win rate: {algorithm} needed {bound}"
        f"{estimate(ratio, *interval)} × those of {baseline} ({'geometric mean of ' * (len(scenarios) > 1)}"
        f"{', '.join(scenarios)})."
    )
    if comparison.n_seeds > 1:
        text += f" Log-rank test, corrected: {finding.named('fewer', 'more')}."
    missed = [_missed(name, _rows(efficiency, comparison, name).loc[scenarios]) for name in (algorithm, baseline)]
    return f"{text} Runs that never got there: {' and '.join(missed)}." + (f" Left out: {reasons}." if reasons else "")


def _missed(algorithm: str, rows: pd.DataFrame) -> str:
    return f"{rows['seeds'].sum() - rows['reached'].sum():.0f} of {rows['seeds'].sum():.0f} of {algorithm}"
