"""What a study found, as a page, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help answers without pandas, scipy and matplotlib
    import pandas as pd

    from amal.study.analysis.comparison import Comparison
    from amal.study.analysis.tables import Bootstrap
    from amal.study.analysis.verdict import Verdict


def write_report(comparison: Comparison, out: Path, bootstrap: Bootstrap) -> dict[str, Verdict]:
    """Writes all files into a folder, each as a whole; the verdict on each algorithm."""
    from amal.study.analysis.verdict import verdict
    from amal.study.report import formats
    from amal.study.report.page import page

    tables = make_tables(comparison, bootstrap)
    scores, totals, efficiency = tables["summary"], tables["aggregates"], tables["sample_efficiency"]
    verdicts = {
        algorithm: verdict(comparison, algorithm, scores, totals, efficiency, bootstrap)
        for algorithm in comparison.algorithms[1:]
    }
    figures = draw_figures(comparison, efficiency, out, bootstrap)
    shown = {
        "Over all scenarios": formats.aggregates(totals),
        "Sample efficiency": formats.sample_efficiency(efficiency),
        "Final scores": formats.final_scores(scores),
        "Against the baseline": formats.tests(scores, comparison),
        "Cost": formats.cost(tables["cost"]),
        "Runs": formats.runs(tables["runs"]),
        "Diagnostics": formats.diagnostics(tables["diagnostics"]),
    }
    _write_tables(tables, shown, comparison, verdicts, out)
    settings = {"baseline": comparison.baseline, "resamples": bootstrap.resamples, "seed": bootstrap.seed}
    sections = {name: formats.to_html(table) for name, table in shown.items()}
    _write(out / "report.html", page(comparison, verdicts, notes(comparison), figures, sections, settings))
    return verdicts


def make_tables(comparison: Comparison, bootstrap: Bootstrap) -> dict[str, pd.DataFrame]:
    """The tables by the names of their files."""
    from amal.study.analysis import efficiency, ledger, tables
    from amal.study.analysis.family import corrected

    scores, arrivals = corrected(
        comparison, tables.summary(comparison, bootstrap), efficiency.sample_efficiency(comparison, bootstrap)
    )
    return {
        "summary": scores,
        "aggregates": tables.aggregates(comparison, bootstrap),
        "sample_efficiency": arrivals,
        "cost": ledger.cost(comparison, bootstrap),
        "runs": ledger.runs(comparison),
        "diagnostics": ledger.diagnostics(comparison),
    }


def _write_tables(
    tables: Mapping[str, pd.DataFrame],
    shown: Mapping[str, pd.DataFrame],
    comparison: Comparison,
    verdicts: Mapping[str, Verdict],
    out: Path,
) -> None:
    import json

    from amal.study.report import formats
    from amal.study.report.marl_eval import marl_eval_data

    for name, table in tables.items():
        _write(out / f"{name}.csv", table.to_csv(index=False))
    names = "Final scores", "Against the baseline"
    headlines = "".join(f"{verdict.headline}\n\n" for verdict in verdicts.values())
    bodies = "\n".join(f"## {name}\n\n{formats.markdown(shown[name])}" for name in names)
    _write(out / "summary.md", headlines + bodies)
    _write(out / "summary.tex", "\n".join(f"% {name}\n{formats.latex(shown[name])}" for name in names))
    _write(out / "marl_eval.json", json.dumps(marl_eval_data(comparison)) + "\n")


def _write(path: Path, text: str) -> None:
    from amal.runtime.atomic import replacing

    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def draw_figures(
    comparison: Comparison, efficiency: pd.DataFrame, out: Path, bootstrap: Bootstrap
) -> dict[str, list[Path]]:
    """Draws all figures, as PNG and SVG; the SVG files by section of the page."""
    from amal.study.figures import plot_lines, plot_ratios, styles
    from amal.study.report import curves

    style = styles(comparison.algorithms)
    steps, sections = "environment steps", {}
    if comparison.counted:
        plot_lines(
            curves.aggregate_curves(comparison, bootstrap),
            style,
            out / "aggregate",
            _over(comparison),
            steps,
            "win rate, IQM",
        )
        profiles = curves.profiles(comparison, bootstrap)
        plot_lines(profiles, style, out / "profile", "Performance profile", "final win rate τ", "runs above τ")
        sections["Over all scenarios"] = [out / "aggregate.svg", out / "profile.svg"]
    bars = curves.ratio_bars(comparison, efficiency, bootstrap)
    if bars:
        title = f"Steps to 90 % of {comparison.baseline}'s win rate"
        label = f"environment steps, {comparison.baseline} = 1"
        plot_ratios(bars, style, out / "sample_efficiency", title, label)
        sections["Sample efficiency"] = [out / "sample_efficiency.svg"]
    sections["Learning curves"] = []
    for scenario in comparison.scenarios():
        title = f"{scenario}, {_seeds(len(comparison.seeds[scenario]))}"
        lines = curves.learning_curves(comparison, scenario, bootstrap)
        plot_lines(lines, style, out / f"win_rate_{scenario}", title, steps, "win rate")
        sections["Learning curves"].append(out / f"win_rate_{scenario}.svg")
    return sections


def _over(comparison: Comparison) -> str:
    n = len(comparison.counted)
    return f"{n} scenario{'s' * (n > 1)}, {_seeds(comparison.n_seeds)}"


def _seeds(n: int) -> str:
    return "1 seed: no band" if n == 1 else f"{n} seeds"


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know beside the verdict: the rank test's reach, what was left out, what was not equal."""
    from amal.study.analysis.verdict import rank_test_sentence

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
