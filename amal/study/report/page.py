"""The page of a report: one HTML file without references, for screen, phone and print."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.scores import ARRIVAL_EVALUATIONS, FINAL_EVALUATIONS, Run
from amal.study.report.verdict import COVERAGE, Verdict

_STYLE = """
:root { --ink: #1c2126; --soft: #5b6570; --line: #d9dee3; --back: #ffffff; --tint: #f4f6f8; --mark: #0072b2;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a424a; --back: #15191d;
  --tint: #1f252b; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 66rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.15rem; color: var(--soft); font-weight: 600; margin: 0 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p, ul { max-width: 46rem; margin: .5rem 0; overflow-wrap: break-word; }
ul { padding-left: 1.2rem; }
.verdict { border-left: 4px solid var(--mark); padding: .1rem 0 .1rem 1rem; margin: 0 0 1.4rem; }
.headline { font-size: 1.3rem; line-height: 1.35; font-weight: 650; }
.note, figcaption { color: var(--soft); font-size: .9rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem;
  max-width: none; margin: .8rem 0; align-items: start; }
figure { margin: 0; max-width: 30rem; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .6rem 0 1rem;
  max-width: 100%; }
th, td { padding: .25rem .45rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1.5px solid var(--soft); vertical-align: bottom; }
td small { display: block; color: var(--soft); font-size: .92em; }
.l { text-align: left; }
td.l { white-space: normal; }
td[data-name=folder], td[data-name=code] { overflow-wrap: anywhere; min-width: 8rem; }
td[data-name="env steps of each run"] { min-width: 13rem; overflow-wrap: normal; }
tbody tr:hover td { background: var(--tint); }
@media screen { table { display: block; width: fit-content; overflow-x: auto; } }
@media screen and (max-width: 46rem) { table, tbody, tr { display: block; width: auto; } thead { display: none; }
  tr { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td, td.l { display: flex; gap: .4rem; align-items: baseline; border: 0;
    padding: .1rem 0; text-align: right; white-space: normal; min-width: 0; }
  td:empty { display: none; } td small { display: inline; }
  td::before { content: attr(data-name); color: var(--soft); text-align: left; white-space: nowrap;
    margin-right: auto; padding-right: 1rem; } }
pre { background: var(--tint); padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem;
  border-radius: 4px; }
summary { cursor: pointer; color: var(--mark); margin: .6rem 0; }
@media print { :root { --ink: #000; --soft: #333; --line: #bbb; --back: #fff; --tint: #fff; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10pt; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } summary { display: none; }
  details::details-content { display: block; content-visibility: visible; height: auto; } table { font-size: 7pt; }
  th, td { padding: .12rem .25rem; } }
"""


def page(
    comparison: Comparison,
    verdicts: Mapping[str, Verdict],
    notes: Sequence[str],
    figures: Mapping[str, Sequence[Path]],
    tables: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """The HTML of the page.

    Args:
        comparison: what is reported.
        verdicts: by algorithm; they come first.
        notes: what a reader must know beside them.
        figures: SVG files by section.
        tables: HTML by section.
        settings: of the report itself.
    """
    others = " and ".join(verdicts)
    title = f"{others or 'Runs'} against {comparison.baseline}" if verdicts else f"{comparison.baseline} by itself"
    parts = [f"<h1>{_text(title)} · {_text(comparison.study.resolve().name)}</h1>"]
    parts += [_verdict(verdict) for verdict in verdicts.values()]
    parts += [_list(notes)] if notes else []
    for section in dict.fromkeys([*figures, *tables]):
        content = _figures(figures.get(section, ())) + tables.get(section, "")
        folded = f"<details><summary>show</summary>{content}</details>" if section in _FOLDED else content
        parts.append(f"<h2>{_text(section)}</h2>{_caption(section, comparison)}{folded}")
    parts.append(_protocol(comparison, settings))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


_FOLDED = {"Runs", "Diagnostics"}
# what is between ‹ and › is about several seeds
_CAPTIONS = {
    "Learning curves": "Win rate in {episodes} greedy battles‹, mean over seeds; bands are 95 % bootstrap intervals of "
    "the mean. Of more than three lines, {baseline} and the highest other one have them›.",
    "Over all scenarios": "Left: interquartile mean of the win rate over scenarios‹ and seeds›. Right: share of "
    "runs whose final win rate is above a threshold. ‹Bands are pointwise 95 % stratified bootstrap intervals: they "
    "are about other seeds, not other scenarios. Of more than three lines, {baseline} and the highest other one have "
    "them. ›The optimality gap is 1 − mean win rate; P(improvement) is how likely a run ends above one of {baseline}.",
    "Final scores": "Mean ‹over seeds ›of each run's last {final} evaluations‹, with a 95 % bootstrap interval›. AUC "
    "is the mean win rate over all of training. Tested: {test_episodes} fresh battles with each run's best checkpoint "
    "and with its last policy, where all runs have a final_test.csv.",
    "Against the baseline": "Final win rate minus that of {baseline}‹; two-sided Welch t-test and exact "
    "Mann–Whitney (MW) test, also corrected over all tests of the study (Holm); Cohen's d with its 95 % bootstrap "
    "interval›.",
    "Sample efficiency": "Environment steps until the mean of {arrival} evaluations reaches the target, 90 % of the "
    "final win rate of {baseline}. > marks censored runs, which did not reach it. × is the ratio of restricted "
    "mean steps or episodes to those of {baseline}, below 1 better‹, with its 95 % bootstrap interval›; ≥ marks a "
    "bound, because no run reached the target.‹ The log-rank test is on environment steps.›",
    "Cost": "‹Means over seeds; of memory the maximum. ›Runs that shared a machine slowed each other down. The last "
    "columns compare at equal wall time, that of the quickest run of the scenario, and at equal numbers of gradient "
    "steps of the policy, the fewest of any run, where metrics.csv counts them.",
    "Runs": "Every run and every planned cell; all numbers are in runs.csv.",
    "Diagnostics": "What the runs logged about their training, mean over updates‹ and seeds›; also in diagnostics.csv.",
}


def _worded(text: str, comparison: Comparison) -> str:
    """With the numbers of the evaluation protocol, and without words on several seeds where there is one."""
    several = r"\1" if comparison.has_tests else ""
    return re.sub("‹(.*?)›", several, text).format(baseline=comparison.baseline, **_numbers(comparison))


def _caption(section: str, comparison: Comparison) -> str:
    caption = _worded(_CAPTIONS.get(section, ""), comparison)
    return f"<p class=note>{_text(caption)}</p>" if caption else ""


def _numbers(comparison: Comparison) -> dict[str, str]:
    """The numbers of the evaluation protocol; '32 or 64' where runs differ."""
    episodes, test_episodes = (
        " or ".join(map(str, sorted({getattr(protocol, name) for protocol in comparison.protocols()})))
        for name in ("episodes", "test_episodes")
    )
    counts = {"final": str(FINAL_EVALUATIONS), "arrival": str(ARRIVAL_EVALUATIONS)}
    return {"episodes": episodes, "test_episodes": test_episodes, **counts}


def _verdict(verdict: Verdict) -> str:
    sentences = "".join(f"<p>{_text(sentence)}</p>" for sentence in verdict.sentences)
    return f"<div class=verdict><p class=headline>{_text(verdict.headline)}</p>{sentences}</div>"


def _figures(paths: Sequence[Path]) -> str:
    # as images rather than inline SVG: ids inside of two figures would clash
    pictures = [
        f'<figure><img alt="{_text(path.stem)}" src="data:image/svg+xml;base64,{_base64(path)}"></figure>'
        for path in paths
    ]
    return f"<div class=figures>{''.join(pictures)}</div>" if pictures else ""


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _text(words: str) -> str:
    return html.escape(words)


def _protocol(comparison: Comparison, settings: Mapping[str, Any]) -> str:
    parts = [
        "<h2>Protocol</h2>",
        _list([line for line in (_worded(line, comparison) for line in _PROTOCOL) if line]),
        f"<p>{_text(_settings(settings))}</p>",
    ]
    parts.append(f"<h2>Versions and hardware</h2>{_list(_machines(comparison.runs))}")
    if comparison.record is None:
        plan = "<p>There is no study.yaml: the plan is guessed from the folders.</p>"
    else:
        plan = f"<pre>{_text(yaml.safe_dump(dict(comparison.record), sort_keys=False, allow_unicode=True))}</pre>"
    trials = comparison.study / "trials.csv"  # of a sweep
    if trials.exists():
        plan += (
            f"<h3>Trials of the sweep (trials.csv)</h3>{pd.read_csv(trials).to_html(index=False, border=0, na_rep='')}"
        )
    return "".join([*parts, "<h2>Plan and tuning (study.yaml)</h2>", plan])


_PROTOCOL = [
    "An evaluation is {episodes} battles of the greedy policy. It has no effect on training. A final score is the "
    "mean of a run's last {final} evaluations.",
    "Algorithms are compared on the seeds that all of them have finished, at equal environment steps.",
    "‹Intervals are percentile bootstrap intervals, nominally 95 %. Runs are resampled, for aggregates within each "
    "scenario. Half a run at the bound is added to them: a win rate of 0 for the lower end, of 1 for the upper end. "
    "The bounds of other metrics are the extremes of all evaluations of the scenario. " + COVERAGE + "›",
    "‹A difference is significant where the corrected p-value is below 0.05: of Welch's t-test for final win rates, of "
    "the log-rank test for sample efficiency. Holm's correction is over both tests of every algorithm on every "
    "scenario of the plan that was not used for tuning, also of those that are not shown. ›Ratios over scenarios are "
    "geometric means.",
]


def _settings(settings: Mapping[str, Any]) -> str:
    return "This report: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + "."


def _machines(runs: Sequence[Run]) -> list[str]:
    """One line for each combination of code, versions and hardware, with the number of its runs."""
    lines: dict[str, int] = {}
    for run in runs:
        record = run.record
        versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        hardware = ", ".join(f"{name} {value}" for name, value in record.get("hardware", {}).items())
        simulator = record.get("simulator_hash") or record.get("backend", "unknown")
        code = f"code {record.get('code_version', 'unknown')}, simulator {simulator}"
        line = " · ".join(filter(None, [code, versions, hardware]))
        lines[line] = lines.get(line, 0) + 1
    return [f"{number} run{'s' * (number > 1)}: {line}" for line, number in lines.items()]
