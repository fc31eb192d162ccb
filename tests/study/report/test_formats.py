"""Tables as people read them."""

from __future__ import annotations

import pandas as pd

from amal.study.report.formats import latex, markdown, number, p_value


def test_numbers_are_written_for_people() -> None:
    assert [number(x) for x in (0.934, -0.5, -0.001, float("inf"), float("nan"))] == ["0.93", "−0.50", "0.00", "∞", ""]
    assert [p_value(x) for x in (0.0004, 0.04, float("nan"))] == ["<0.001", "0.040", ""]
    table = pd.DataFrame({"a_b": ["x|y"], "p": ["<0.001"], "d": ["−∞"]})
    assert markdown(table) == "| a_b | p | d |\n| --- | --- | --- |\n| x/y | <0.001 | −∞ |\n"
    assert r"a\_b & p & d \\" in latex(table) and r"$<$0.001 & $-$$\infty$" in latex(table)
    names = pd.DataFrame({"a": [r"\input{x}^2~$y"], "b": ["two\nlines"]})
    assert latex(names).splitlines()[4] == (
        r"\textbackslash input\{x\}\textasciicircum 2\textasciitilde \$y & two lines \\"
    )
    assert "| two lines |" in markdown(names)
