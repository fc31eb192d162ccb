"""What a reader must know beside the verdict: what was left out, and what was not equal."""

from __future__ import annotations

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.verdict import rank_test_sentence


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the verdict: the rank test's reach, what was left out, what was not equal."""

    found = [rank_test_sentence(comparison) if len(comparison.algorithms) > 1 else ""]
    unfinished = {
        f"{run.algorithm} {run.scenario} seed_{run.seed}": run.record["outcome"]
        for run in comparison.runs
        if not run.finished
    }
    unfinished |= {f"{a} {s} seed_{k}": state for (a, s, k), state in comparison.absent.items()}
    if unfinished:
        cells = "; ".join(f"{cell} ({state})" for cell, state in unfinished.items())
        found.append(
            f"{len(unfinished)} of {len(comparison.runs) + len(comparison.absent)} runs are not there: {cells}."
        )
    unused = [run for run in comparison.runs if run.finished and not comparison.is_used(run)]
    if unused:
        cells = ", ".join(f"{run.algorithm} {run.scenario} seed_{run.seed}" for run in unused)
        found.append(f"Finished, but left out because another algorithm has not finished that seed: {cells}.")
    planned = (comparison.record or {}).get("baseline")
    if planned not in (None, comparison.baseline):
        found.append(
            f"The study was planned with {planned} as the baseline; what is said here against {comparison.baseline} "
            "was not planned and is exploratory."
        )
    return [*filter(None, found), *_not_counted(comparison), *_unequal(comparison)]


def _not_counted(comparison: Comparison) -> list[str]:
    found = []
    for scenario, seeds in comparison.seeds.items():
        if scenario in comparison.tuned_on:
            found.append(
                f"{scenario} was used for tuning: it is shown, but enters no aggregate, correction or verdict."
            )
        elif scenario not in comparison.counted:
            absent = [name for name in comparison.algorithms if name not in comparison.compared(scenario)]
            why = f"only {_seeds_complete(len(seeds))}" if not absent else f"not finished by {', '.join(absent)}"
            found.append(f"{scenario} enters no aggregate, correction or verdict: {why}.")
    longer = [scenario for scenario in comparison.counted if len(comparison.seeds[scenario]) > comparison.n_seeds]
    if longer:
        first = f"their first {comparison.n_seeds} seeds" if comparison.n_seeds > 1 else "their first seed"
        found.append(f"{', '.join(longer)} enter aggregates with {first}, as many as all counted scenarios have.")
    return found


def _seeds_complete(n: int) -> str:
    return "1 seed is complete" if n == 1 else f"{n} seeds are complete"


def _unequal(comparison: Comparison) -> list[str]:
    """What differs between runs in the statistics though it should not."""
    used = [run for run in comparison.runs if comparison.is_used(run)]
    found = []
    for key, what in (("simulator_hash", "versions of the simulator"), ("code_version", "versions of the code")):
        values = sorted({str(run.record.get(key) or run.record.get("backend")) for run in used})
        if len(values) > 1:
            found.append(f"The runs were made with {len(values)} {what}: {', '.join(values)}.")
    if any(str(run.record.get("code_version")).endswith("-dirty") for run in used):
        found.append("Some runs were made with changes that were not committed (-dirty): they cannot be made again.")
    for scenario in comparison.scenarios():
        ends = [float(r.evaluations["env_steps"].iloc[-1]) for r in used if r.scenario == scenario]
        if max(ends) > 1.05 * min(ends):  # a budget is overshot by an update at most
            found.append(f"Budgets differ on {scenario}: runs end between {min(ends):,.0f} and {max(ends):,.0f} steps.")
    return found
