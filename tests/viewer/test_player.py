"""What someone who opens a player would miss if it broke."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from amal.battle.scenario import load_scenario, place
from amal.viewer.action_recorder import ChosenActions
from amal.viewer.player import action_names, battle_data, fill_page, write_html
from amal.viewer.recording import ALIVE, HP, SHIELD, Recording
from tests.conftest import SMAC


class Elements(HTMLParser):
    """All attributes that could load something, and the text of every script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [named[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in named]
        self._inside = named.get("id") or tag if tag in ("script", "style", "title") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def shown(path: Path) -> dict[str, Any]:
    """The data in a page."""
    return json.loads(Elements(path.read_text()).texts["battle"])


def played(name: str, steps: int, first_dead: int | None = None) -> tuple[Recording, ChosenActions]:
    """Units that stand still, with random probabilities; every second action is not available. From the third row on
    the units from ``first_dead`` on are dead."""
    scenario, rng = load_scenario(name), np.random.default_rng(0)
    units = np.zeros((steps + 1, len(scenario.units), 9))
    units[:, :, :2] = place(scenario) + rng.uniform(-0.3, 0.3, (steps + 1, len(scenario.units), 2))
    units[:, :, HP] = [unit.hp * 0.77 for unit in scenario.units]
    units[:, :, SHIELD] = [unit.shield for unit in scenario.units]
    units[:, :, ALIVE] = 1
    if first_dead is not None:
        units[2:, first_dead:, [HP, ALIVE]] = 0
    spec = scenario.spec()
    available = np.tile(np.arange(spec.n_actions) % 2 == 1, (steps, spec.n_agents, 1))
    probabilities = rng.dirichlet(np.full(spec.n_actions, 0.3), (steps, spec.n_agents)) * available
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    chosen = ChosenActions(probabilities.argmax(axis=-1), available, "probability", probabilities)
    return Recording(scenario, units), chosen


def test_the_page_needs_nothing_else_and_tells_every_step(tmp_path: Path) -> None:
    recording, chosen = played("2s3z", 7)
    write_html(recording, chosen, tmp_path / "battle.html", "</script><b>bold</b>")
    page = (tmp_path / "battle.html").read_text()
    assert "{{" not in page and "<b>" not in page and "://" not in page and "url(" not in page and "import" not in page
    elements = Elements(page)
    assert elements.loads == ["data:,"] and "default-src 'none'" in page
    assert '<p id="outcome" hidden></p>' in page, "it is told at the end, by the script"
    data = shown(tmp_path / "battle.html")
    assert data["title"] == "</script><b>bold</b>" and elements.texts["title"] == "2s3z </script><b>bold</b>"
    assert len(data["frames"]) == 8 and len(data["actions"]) == len(data["scores"]) == 7
    assert data["outcome"] == "draw" and data["field"].startswith("data:image/jpeg;base64,")
    assert all(len(frame) == len(data["units"]) == 10 for frame in data["frames"])
    np.testing.assert_allclose(np.array(data["frames"])[:, :, [0, 1, 3]], recording.units[:, :, [0, 1, HP]], atol=0.05)


@pytest.mark.parametrize("kind", ["probability", "value"])
def test_scores_are_told_of_available_actions_only(kind: Literal["probability", "value"]) -> None:
    recording, chosen = played("27m_vs_30m", 3)
    assert chosen.scores is not None
    scores = chosen.scores if kind == "probability" else np.where(chosen.available_actions, -chosen.scores, -np.inf)
    data = battle_data(recording, replace(chosen, kind=kind, scores=scores), "")
    assert data["kind"] == kind
    for t, offers in enumerate(data["scores"]):
        for n, offer in enumerate(offers):
            assert offer[::2] == np.flatnonzero(chosen.available_actions[t, n]).tolist()
            np.testing.assert_allclose(offer[1::2], scores[t, n, offer[::2]], atol=1e-4)
            assert data["actions"][t][n] in offer[::2]


def test_a_long_battle_of_many_stays_small() -> None:
    recording, chosen = played("27m_vs_30m", load_scenario("27m_vs_30m").episode_limit)
    assert len(fill_page(battle_data(recording, chosen, ""), "")) < 1_500_000


def test_the_dead_have_no_health_and_a_time_of_death() -> None:
    data = battle_data(*played("3m", 4, first_dead=3), "")
    assert [len(row) for row in data["frames"][2]] == [6, 6, 6, 3, 3, 3]
    assert data["deaths"][:3] == [None] * 3 and all(1 <= death <= 2 for death in data["deaths"][3:])
    assert data["outcome"] == "victory"


@pytest.mark.parametrize("name", SMAC)
def test_every_action_has_a_name_and_every_target_a_unit(name: str) -> None:
    scenario = load_scenario(name)
    data = battle_data(*played(name, 1), "")
    longest = max(len(agent["actions"]) for agent in data["agents"])
    assert longest == scenario.n_actions
    for agent in data["agents"]:
        assert len(set(agent["actions"])) == len(agent["actions"]) == 6 + len(agent["targets"])
        for action, target in zip(agent["actions"][6:], agent["targets"], strict=True):
            assert action.endswith(" " + data["units"][target]["name"])


def test_healers_heal_and_others_attack() -> None:
    names = [action_names(load_scenario("MMM"), me) for me in range(10)]
    healer = next(actions for actions in names if any("heal" in action for action in actions))
    assert healer[:7] == [
        *("no-op", "stop", "move north", "move south", "move east", "move west"),
        f"heal {load_scenario('MMM').units[0].name} #0",
    ]
    assert sum(any(action.startswith("attack") for action in actions) for actions in names) == 9


@pytest.mark.parametrize("name", ["{{DATA}}", "{{SCRIPT}}", "{{TITLE}}{{NOTHING}}", "\\1 \\g<1>"])
def test_a_name_that_looks_like_a_place_of_the_template_is_only_a_name(name: str) -> None:
    page = fill_page({"title": name}, f"3m {name}.ckpt")
    elements = Elements(page)
    assert json.loads(elements.texts["battle"]) == {"title": name}
    assert elements.texts["title"] == f"3m {name}.ckpt" and page.count("<script") == 2
