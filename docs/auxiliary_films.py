"""What auxiliary agents do differently: the team and its three fittest auxiliary agents, side by side from one start.

Usage: python docs/auxiliary_films.py CHECKPOINT --out films.html [--seed 0], of AMAL with auxiliary agents in its
imagination, for instance RUN/checkpoints/last.ckpt. All four act greedily in the same real battle; the page has a
player of each.
"""

from __future__ import annotations

import argparse
import html
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from amal.algorithms.amal import AMAL
from amal.algorithms.amal.logit_auxiliaries import DeviatingTeam
from amal.battle.battlefield import Scenario
from amal.rollout.collector import record_battle
from amal.rollout.load_policy import load_player
from amal.runtime.atomic import replacing
from amal.viewer.action_recorder import ActionRecorder
from amal.viewer.player import write_html
from amal.viewer.recording import Recording

SHOWN = 3
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ margin: 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(640px, 100%), 1fr)); }}
iframe {{ width: 100%; height: 900px; border: 0; }}
</style>
{players}
</html>
"""


def play(team: AMAL, scenario: Scenario, seed: int) -> str:
    """The whole page."""
    nobody = torch.zeros_like(team.population[:1])
    players = []
    for i, offsets in enumerate(torch.cat([nobody, team.population[:SHOWN]])):
        name = "team φ" if i == 0 else f"auxiliary agent ψ {i}"
        actor = ActionRecorder(DeviatingTeam(team, offsets.unsqueeze(0)))
        recording = Recording(*record_battle(actor, scenario, seed))
        print(f"{name}: {recording.outcome} after {recording.steps} steps")
        players.append(f'<iframe title="{name}" srcdoc="{html.escape(player(recording, actor, name))}"></iframe>')
    return PAGE.format(title=f"{scenario.name}: the team and its auxiliary agents", players="\n".join(players))


def player(recording: Recording, actor: ActionRecorder, title: str) -> str:
    with TemporaryDirectory() as folder:
        write_html(recording, actor.chosen(), Path(folder) / "player.html", title)
        return (Path(folder) / "player.html").read_text(encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    module, fought = load_player(given.checkpoint)
    if not isinstance(module, AMAL) or module.population.ndim != 3 or len(module.population) < SHOWN:
        raise SystemExit(f"error: {given.checkpoint} has no {SHOWN} auxiliary agents in its imagination")
    page = play(module, fought, given.seed)
    with replacing(given.out) as part:
        part.write_text(page, encoding="utf-8")
