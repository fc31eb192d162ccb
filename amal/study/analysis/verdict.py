"""What a comparison found and how sure that is, in words, generated from its tables; a defeat as plainly as a win."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.efficiency import pooled_bound, pooled_ratio
from amal.study.analysis.statistics import Interval
from amal.study.analysis.tables import Bootstrap

ALPHA = 0.05
PRELIMINARY_SEEDS, CLAIM_SEEDS = 5, 10
COVERAGE = (
    "95 % intervals of win rates held the true mean in 88 % of simulated studies at worst, in 96 % or more where one "
    "run in ten fails (docs/interval_coverage.py)"
)


class Verdict(NamedTuple):
    """The first lines of a report: what was found, and sentence by sentence what says so."""

    headline: str
    sentences: list[str]


class _Finding(NamedTuple):
    """A measure of one algorithm against the baseline: on which counted scenarios a corrected test tells a difference,
    and in whose favour."""

    measure: str
    better: list[str]
    worse: list[str]
    tested: list[str]


def verdict(
    comparison: Comparison,
    algorithm: str,
    summary: pd.DataFrame,
    aggregates: pd.DataFrame,
    efficiency: pd.DataFrame,
    bootstrap: Bootstrap,
) -> Verdict:
    """Of one algorithm against the baseline.

    A difference counts as found on a scenario where its p-value, corrected over the study's family of tests, is below
    0.05: of Welch's test for the final win rate, of the log-rank test for the steps to the threshold.
    """
    if not comparison.counted:
        where = "on no scenario"
        if tuned_on := [scenario for scenario in comparison.scenarios() if scenario in comparison.tuned_on]:
            where += f" beside {_all(tuned_on)}, which {'was' if len(tuned_on) == 1 else 'were'} used for tuning,"
        return Verdict(f"No verdict: {where} has a seed been finished by {_all(comparison.algorithms)} alike.", [])
    rows = _rows(summary, comparison, algorithm)
    wins = _finding("final win rate", rows["welch_p_holm"], rows["difference"])
    arrivals = _rows(efficiency, comparison, algorithm)
    if "env_steps_ratio" in arrivals:
        steps = _finding("sample efficiency", arrivals["env_steps_log_rank_p_holm"], 1 - arrivals["env_steps_ratio"])
    else:
        steps = _Finding("sample efficiency", [], [], [])
    sentences = [
        _win_rate_sentence(comparison, algorithm, aggregates),
        _tests_sentence(comparison, rows, wins),
        _steps_sentence(comparison, algorithm, efficiency, steps, bootstrap),
        sureness(comparison.n_seeds),
    ]
    return Verdict(_headline(comparison, algorithm, [wins, steps]), sentences)


def _rows(table: pd.DataFrame, comparison: Comparison, algorithm: str) -> pd.DataFrame:
    """Of an algorithm on the counted scenarios, by scenario."""
    return table[table["algorithm"] == algorithm].set_index("scenario").loc[list(comparison.counted)]


def _finding(measure: str, p_values: pd.Series, advantage: pd.Series) -> _Finding:
    found = p_values < ALPHA
    better, worse = (list(p_values.index[found & side]) for side in (advantage > 0, advantage < 0))
    return _Finding(measure, better, worse, list(p_values.index[p_values.notna()]))


def _headline(comparison: Comparison, algorithm: str, findings: Sequence[_Finding]) -> str:
    baseline, n = comparison.baseline, comparison.n_seeds
    if n == 1:
        return f"No verdict: with one seed no difference between {algorithm} and {baseline} can be tested."
    found = _found(algorithm, baseline, [finding for finding in findings if finding.tested])
    if n < PRELIMINARY_SEEDS:
        return f"No verdict yet with {n} of at least {PRELIMINARY_SEEDS} seeds. So far: {found}."
    return f"Preliminary: {found}." if n < CLAIM_SEEDS else f"With {n} seeds: {found}."


def _found(algorithm: str, baseline: str, findings: Sequence[_Finding]) -> str:
    ahead, behind = any(finding.better for finding in findings), any(finding.worse for finding in findings)
    if not ahead and not behind:
        measures = " or ".join(finding.measure for finding in findings)
        return f"undecided, no significant difference between {algorithm} and {baseline} in {measures}"
    opening = f"{algorithm} is {'ahead of' if ahead else 'behind'} {baseline}"
    if ahead and behind:
        opening = f"{algorithm} is in part ahead of {baseline} and in part behind"
    return f"{opening}: {'; '.join(map(_clause, findings))}"


def _clause(finding: _Finding) -> str:
    """'final win rate ahead on 2 of 3 scenarios and behind on 1 of 3'."""
    sides = [
        f"{word} on {_share(side, finding.tested)}"
        for word, side in (("ahead", finding.better), ("behind", finding.worse))
        if side
    ]
    return f"{finding.measure} {' and '.join(sides) or 'not significantly different'}"


def _share(part: Sequence[str], whole: Sequence[str]) -> str:
    """'2 of 3 scenarios', or 'all 3 scenarios'."""
    if len(part) == len(whole):
        return {1: f"the only scenario ({whole[0]})", 2: "both scenarios"}.get(
            len(whole), f"all {len(whole)} scenarios"
        )
    return f"{len(part)} of {_count(len(whole), 'scenario')}"


def _win_rate_sentence(comparison: Comparison, algorithm: str, aggregates: pd.DataFrame) -> str:
    table = aggregates.set_index("algorithm").to_dict("index")
    ours, base = table[algorithm], table[comparison.baseline]
    return (
        f"Final win rate over {_count(len(comparison.counted), 'scenario')}, interquartile mean: {algorithm} "
        f"{_value(ours, 'iqm')}, {comparison.baseline} {_value(base, 'iqm')}; difference of the means "
        f"{_value(ours, 'difference', '+')}; a run of {algorithm} ends above one of {comparison.baseline} with "
        f"probability {_value(ours, 'improvement')}."
    )


def _value(row: Mapping[Hashable, Any], name: str, sign: str = "") -> str:
    value, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{round(value, 2) + 0.0:{sign}.2f}".replace("-", "−") + _bracket((low, high))


def _tests_sentence(comparison: Comparison, rows: pd.DataFrame, wins: _Finding) -> str:
    ranks = _finding("", rows["mann_whitney_p_holm"], rows["difference"])
    if not wins.tested:
        return "With one seed there is no test: the variance between seeds is unknown."
    by_test = [
        f"{test} finds {_sides(finding, comparison.baseline)}"
        for test, finding in (("Welch's t-test", wins), ("the Mann–Whitney test", ranks))
    ]
    return f"Final win rates, p-values corrected over {_all_tests(comparison)} (Holm): {'; '.join(by_test)}."


def _all_tests(comparison: Comparison) -> str:
    return f"the study's {_count(comparison.family, 'test')}"


def _sides(finding: _Finding, baseline: str) -> str:
    parts = [
        f"a win rate {word} {baseline}'s on {', '.join(side)}"
        for word, side in (("above", finding.better), ("below", finding.worse))
        if side
    ]
    return " and ".join(parts) or "no significant difference"


def rank_test_sentence(comparison: Comparison) -> str:
    """What the Mann–Whitney test with Holm's correction can at best reach with these numbers of runs."""
    sizes = [len(comparison.seeds[scenario]) for scenario in comparison.counted]
    if not sizes:
        return ""
    least, most = min(sizes), max(sizes)
    p_value = least_p_value(most)
    corrected = min(1.0, comparison.family * p_value)
    runs = f"{most} against {most} runs" if least == most else f"{least} to {most} runs of each"
    text = (
        f"With {runs} the smallest possible Mann–Whitney p-value is {p_value:.2g}, after Holm's correction over "
        f"{_all_tests(comparison)} {corrected:.2g}"
    )
    if corrected >= ALPHA:
        needed = next(n for n in range(most, 1000) if comparison.family * least_p_value(n) < ALPHA)
        return f"{text}: it cannot find any difference, however clear; that takes at least {needed} seeds."
    every = ": it finds a difference only where nearly every run of one is above every run of the other"
    return text + (every if corrected > ALPHA / 5 else "") + "."


def least_p_value(n: int) -> float:
    """The smallest two-sided Mann–Whitney p-value of n against n runs, when all of one are above all of the other."""
    return min(1.0, 2 / comb(2 * n, n))


def _steps_sentence(
    comparison: Comparison, algorithm: str, efficiency: pd.DataFrame, finding: _Finding, bootstrap: Bootstrap
) -> str:
    baseline, rows = comparison.baseline, _rows(efficiency, comparison, algorithm)
    ratio, interval, scenarios = pooled_ratio(comparison, algorithm, bootstrap)
    left_out = _left_out(rows, scenarios)
    if not scenarios:
        return f"Steps to 90 % of {baseline}'s final win rate cannot be compared: {left_out}."
    pooled = "" if len(scenarios) == 1 else ", geometric mean"
    where = f"{_share(scenarios, list(rows.index))} ({', '.join(scenarios)})" if len(rows) > 1 else scenarios[0]
    text = (
        f"To reach 90 % of {baseline}'s final win rate, {algorithm} needed {_bound(rows, scenarios)}{ratio:.2f} × "
        f"{baseline}'s environment steps{_bracket(interval)} on {where}{pooled}"
    )
    found = [
        f"{word} on {', '.join(side)}" for word, side in (("fewer", finding.better), ("more", finding.worse)) if side
    ]
    if comparison.n_seeds > 1:
        text += f"; significantly {' and '.join(found)} (log-rank, Holm)" if found else "; no difference is significant"
    missed = [_missed(name, _rows(efficiency, comparison, name).loc[scenarios]) for name in (algorithm, baseline)]
    text += f"; {' and '.join(filter(None, missed))} never got there" if any(missed) else ""
    return f"{text}. Left out: {left_out}." if left_out else f"{text}."


def _bound(rows: pd.DataFrame, scenarios: Sequence[str]) -> str:
    """Where no run of one of the two arrived, the ratio may be worse for that one than the number says."""
    return {"≥": "at least ", "≤": "at most "}.get(pooled_bound(rows["env_steps_bound"].loc[list(scenarios)]), "")


def _missed(algorithm: str, rows: pd.DataFrame) -> str:
    missed, of = int((rows["seeds"] - rows["reached"]).sum()), int(rows["seeds"].sum())
    return f"{missed} of {of} runs of {algorithm}" if missed else ""


def _left_out(rows: pd.DataFrame, scenarios: Sequence[str]) -> str:
    """Why scenarios have no ratio."""
    reasons = {
        str(scenario): row["note"] or "no run reached it"
        for scenario, row in rows.iterrows()
        if scenario not in scenarios
    }
    return "; ".join(f"{scenario}, {reason}" for scenario, reason in reasons.items())


def sureness(n_seeds: int) -> str:
    """How far so many seeds carry."""
    if n_seeds < PRELIMINARY_SEEDS:
        text = f"preliminary ({PRELIMINARY_SEEDS} needed, {CLAIM_SEEDS} for a claim)"
    else:
        text = f"preliminary ({CLAIM_SEEDS} for a claim)" if n_seeds < CLAIM_SEEDS else "enough for a claim"
    return f"{_count(n_seeds, 'seed')}: {text}; {'no interval can be given' if n_seeds == 1 else COVERAGE}."


def _bracket(interval: Interval) -> str:
    low, high = (round(bound, 2) + 0.0 for bound in interval)  # + 0.0 makes 0 of −0
    return "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]".replace("-", "−")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _all(names: Sequence[str]) -> str:
    """'3m, MMM and corridor'."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
