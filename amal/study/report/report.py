"""Write what a study found: a page, figures and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from amal.runtime.atomic import replacing
from amal.study.analysis import ledger
from amal.study.analysis.comparison import Comparison
from amal.study.analysis.efficiency import sample_efficiency
from amal.study.analysis.family import correct_p_values
from amal.study.analysis.tables import Bootstrap, aggregates, summary
from amal.study.figures import plot_lines, plot_ratios, styles, telling_missing_glyphs
from amal.study.report import curves, formats
from amal.study.report.formats import count
from amal.study.report.marl_eval import marl_eval_data
from amal.study.report.notes import notes
from amal.study.report.page import page
from amal.study.report.verdict import Verdict, judge


def write_report(comparison: Comparison, out: Path, bootstrap: Bootstrap) -> dict[str, Verdict]:
    """Write all files into a folder, each atomically.

    Returns:
        By algorithm, the verdict on it against the baseline.
    """
    tables = make_tables(comparison, bootstrap)
    scores, totals, efficiency = tables["summary"], tables["aggregates"], tables["sample_efficiency"]
    verdicts = {
        algorithm: judge(comparison, algorithm, scores, totals, efficiency, bootstrap)
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
    scores, arrivals = correct_p_values(
        comparison, summary(comparison, bootstrap), sample_efficiency(comparison, bootstrap)
    )
    return {
        "summary": scores,
        "aggregates": aggregates(comparison, bootstrap),
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
    for name, table in tables.items():
        _write(out / f"{name}.csv", table.to_csv(index=False))
    names = "Final scores", "Against the baseline"
    headlines = "".join(f"{verdict.headline}\n\n" for verdict in verdicts.values())
    bodies = "\n".join(f"## {name}\n\n{formats.markdown(shown[name])}" for name in names)
    _write(out / "summary.md", headlines + bodies)
    seeds = " or ".join(map(str, sorted({len(seeds) for seeds in comparison.seeds.values()})))
    several = f"mean over {seeds} seeds with 95 % bootstrap intervals" if comparison.has_tests else "1 seed"
    captions = {
        "Final scores": f"Final scores, {several}.",
        "Against the baseline": f"Final win rates against {comparison.baseline}, {seeds} seed{'s' * (seeds != '1')}.",
    }
    written = [
        formats.latex(
            shown[name].drop(columns="seeds", errors="ignore"), caption, f"tab:{name.lower().replace(' ', '-')}"
        )
        for name, caption in captions.items()
        if not shown[name].empty
    ]
    _write(out / "summary.tex", "\n".join(written))
    _write(out / "marl_eval.json", json.dumps(marl_eval_data(comparison)) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


@telling_missing_glyphs()
def draw_figures(
    comparison: Comparison, efficiency: pd.DataFrame, out: Path, bootstrap: Bootstrap
) -> dict[str, list[Path]]:
    """Draw all figures as PNG, SVG and PDF. Returns the SVG files by section of the page."""
    folders = {name: comparison.folders.get(name, name) for name in comparison.algorithms}
    by_folder = styles(list(folders.values()), (comparison.record or {}).get("colours") or {})
    style = {name: by_folder[folder] for name, folder in folders.items()}
    steps, sections = "environment steps", {}
    if comparison.counted:
        lines, axis = curves.aggregate_curves(comparison, bootstrap)
        plot_lines(lines, style, out / "aggregate", _over(comparison), axis, "win rate, IQM")
        profiles = curves.profiles(comparison, bootstrap)
        labels = "Performance profile", "final win rate τ", "runs above τ"
        plot_lines(profiles, style, out / "profile", *labels, named_at_ends=False)
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
    return f"{count(n, 'scenario')}, {_seeds(comparison.n_seeds)}"


def _seeds(n: int) -> str:
    return "1 seed: no band" if n == 1 else f"{n} seeds"
