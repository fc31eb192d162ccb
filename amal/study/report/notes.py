"""What a reader must know beside the verdict: the rank test's reach, what was left out, what was not equal."""

from __future__ import annotations

from math import comb

from amal.study.analysis.comparison import Comparison
from amal.study.records import SAMPLED
from amal.study.report.formats import count
from amal.study.report.verdict import ALPHA

_PROTOCOL = {
    "episodes": "battles of each evaluation",
    "test_episodes": "battles of the final test",
    "every_n_episodes": "training episodes between evaluations",
}


def notes(comparison: Comparison) -> list[str]:
    """One sentence or two each."""
    found = [_rank_test(comparison)] if comparison.counted and len(comparison.algorithms) > 1 else []
    planned = (comparison.record or {}).get("baseline")
    if planned not in (None, comparison.folders.get(comparison.baseline, comparison.baseline)):
        found.append(
            f"The study was planned with {planned} as the baseline. Comparisons with {comparison.baseline} were not "
            "planned and are exploratory."
        )
    if (comparison.record or {}).get("acting") == SAMPLED:
        found.append(
            "Win rates are of teams that sample their actions, as the study was planned; returns, lengths, deaths and "
            "the final test are of greedy teams."
        )
    return [*found, *_left_out(comparison), *_not_counted(comparison), *_unequal(comparison)]


def _rank_test(comparison: Comparison) -> str:
    """What the Mann–Whitney test with Holm's correction can at best reach with these numbers of runs."""
    sizes = [len(comparison.seeds[scenario]) for scenario in comparison.counted]
    n, family = max(sizes), comparison.family
    runs = count(n, "run") if min(sizes) == n else f"{min(sizes)} to {n} runs"
    corrected = min(1.0, family * least_p_value(n))
    needed = next(n for n in range(2, 1000) if family * least_p_value(n) < ALPHA)
    if n == 1:
        return (
            "One run of each algorithm allows no test and no interval: another seed may turn the order around. The "
            f"Mann–Whitney test takes at least {needed} seeds in this study."
        )
    text = (
        f"With {runs} of each algorithm the smallest possible Mann–Whitney p-value is "
        f"{least_p_value(n):.2g}, and {corrected:.2g} after Holm's correction over the study's {count(family, 'test')}."
    )
    return text if n >= needed else f"{text} So it cannot find any difference; that takes at least {needed} seeds."


def least_p_value(n: int) -> float:
    """The smallest two-sided Mann–Whitney p-value of n against n runs, when all of one are above all of the other."""
    return min(1.0, 2 / comb(2 * n, n))


def _left_out(comparison: Comparison) -> list[str]:
    found, runs = [], comparison.runs
    cells = {(run.algorithm, run.scenario, run.seed): run.record["outcome"] for run in runs if not run.finished}
    cells |= comparison.absent
    if cells:
        listed = "; ".join(f"{a} {s} seed_{k} ({state})" for (a, s, k), state in cells.items())
        found.append(f"{len(cells)} of {len(runs) + len(comparison.absent)} runs are missing or unfinished: {listed}.")
    unused = [run for run in runs if run.finished and not comparison.is_used(run)]
    if unused:
        listed = ", ".join(f"{run.algorithm} {run.scenario} seed_{run.seed}" for run in unused)
        found.append(f"Finished, but left out because another algorithm has not finished that seed: {listed}.")
    return found


def _not_counted(comparison: Comparison) -> list[str]:
    found = []
    for scenario, seeds in comparison.seeds.items():
        absent = [name for name in comparison.algorithms if name not in comparison.compared(scenario)]
        why = f"not finished by {', '.join(absent)}" if absent else f"only {count(len(seeds), 'seed')} finished by all"
        if scenario in comparison.tuned_on:
            why = "it was used for tuning"
        if scenario not in comparison.counted:
            found.append(f"{scenario} is shown, but enters no aggregate, correction or verdict: {why}.")
    longer = [scenario for scenario in comparison.counted if len(comparison.seeds[scenario]) > comparison.n_seeds]
    if longer:
        seeds_used = count(comparison.n_seeds, "seed")
        found.append(f"Aggregates take the first {seeds_used} of {', '.join(longer)}: as many as every scenario has.")
    return found


def _unequal(comparison: Comparison) -> list[str]:
    """What differs between runs in the statistics though it should not."""
    used = [run for run in comparison.runs if comparison.is_used(run)]
    found = []
    for key, what in (("simulator_hash", "versions of the simulator"), ("code_version", "versions of the code")):
        values = sorted({str(run.record.get(key) or run.record.get("backend")) for run in used})
        if len(values) > 1:
            found.append(f"The runs were made with {len(values)} {what}: {', '.join(values)}.")
    if any(str(run.record.get("code_version")).endswith("-dirty") for run in used):
        found.append("Some runs were made with uncommitted changes (-dirty): they cannot be reproduced.")
    for field, what in _PROTOCOL.items():
        numbers = sorted({getattr(run.protocol, field) for run in used} - {None})
        if len(numbers) > 1:
            found.append(f"The runs were evaluated differently: {' or '.join(map(str, numbers))} {what}.")
    for scenario in comparison.scenarios():
        ends = [float(r.evaluations["env_steps"].iloc[-1]) for r in used if r.scenario == scenario]
        if max(ends) > 1.05 * min(ends):  # a budget is overshot by an update at most
            found.append(f"Budgets differ on {scenario}: runs end between {min(ends):,.0f} and {max(ends):,.0f} steps.")
    return found
