"""How fast the battles are."""

from collections.abc import Callable

import pytest


def test_the_scenarios_that_are_given_are_measured(
    cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    cli("bench", "--scenarios", "2m_vs_1z", "--battles", "16", "--seconds", "0.3", "--algorithms")
    row = next(line for line in capsys.readouterr().out.splitlines() if "2m_vs_1z" in line)
    battles, _, median, slowest, fastest, _ = (float(word.replace(",", "")) for word in row.split()[1:])
    assert battles == 16
    assert 0 < slowest <= median <= fastest
