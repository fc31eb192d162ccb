"""Tables as people read them."""

from __future__ import annotations

import pandas as pd

from amal.study.report.formats import LATEX_WIDTH, latex, markdown, number, p_value


def test_numbers_are_written_for_people() -> None:
    assert [number(x) for x in (0.934, -0.5, -0.001, 12300.4, float("inf"), float("nan"))] == [
        "0.93",
        "−0.50",
        "0.00",
        "12,300.40",
        "∞",
        "",
    ]
    assert [p_value(x) for x in (0.0004, 0.04, float("nan"))] == ["<0.001", "0.040", ""]
    table = pd.DataFrame({"a_b": ["x|y"], "p": ["<0.001"], "d": ["−∞"]})
    assert markdown(table) == "| a_b | p | d |\n| --- | --- | --- |\n| x/y | <0.001 | −∞ |\n"
    written = latex(table, "100 % of a_b", "tab:a")
    assert r"p & d \\" in written and r"$<$0.001 & $-$$\infty$" in written and r"x\textbar{}y &  \\" in written
    assert r"\caption{100 \% of a\_b}" in written and r"\label{tab:a}" in written
    names = pd.DataFrame({"a": [r"\input{x}^2~$y"], "b": ["two\nlines"]})
    written = latex(names, "", "tab:b")
    assert (
        r"\textbackslash input\{x\}\textasciicircum 2\textasciitilde \$y \\" in written and r"two lines \\" in written
    )
    assert "| two lines |" in markdown(names)


def test_a_latex_table_that_is_too_wide_for_a_column_becomes_several() -> None:
    wide = pd.DataFrame({"scenario": ["terran_5_vs_5"], "algorithm": ["mappo"]})
    for number_of in range(6):
        wide[f"value {number_of}"] = "0.93 [0.90, 0.96]"
    written = latex(wide, "Scores.", "tab:scores")
    rows = [line.replace(r"\_", "_") for line in written.splitlines() if line.startswith("mappo")]
    assert len(rows) == 3 and all(len(row) < LATEX_WIDTH + 8 for row in rows)
    assert [line for line in written.splitlines() if line.startswith(r"\label")] == [
        *(r"\label{tab:scores}", r"\label{tab:scores-2}", r"\label{tab:scores-3}")
    ]
    assert "Scores. (2 of 3)" in written and "resizebox" not in written
