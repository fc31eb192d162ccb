"""The steps of many battles at once: each battle's start and step, and their shares of the threads."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from amal.battle.compilation import kernel
from amal.battle.dynamics import anyone_lives, fight, place_units
from amal.battle.lineup import draw_lineup, scene_of
from amal.battle.observer import clear_last_actions, look_east, observe, write_last_actions

CHUNKS = 8  # of battles, shared out among the threads


class Views(NamedTuple):
    """What the kernels write for E battles."""

    obs: np.ndarray  # [E, N, O] float32
    state: np.ndarray  # [E, S] float32
    available_actions: np.ndarray  # [E, N, A] bool
    final_obs: np.ndarray  # [E, N, O] float32, the last of the episode before an automatic reset
    final_state: np.ndarray  # [E, S] float32
    rewards: np.ndarray  # [E] float64
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool
    won: np.ndarray  # [E] bool
    nowhere: np.ndarray  # [0, 2], stands for the scenario's own start positions


@kernel
def start_battle(units, battles, scene, lineup, e, positions, views):  # type: ignore[no-untyped-def]
    """Places battle e at positions [U, 2], or where the scenario says if they are empty, and observes it.

    A family's units are drawn anew only after a step: to start a battle twice is to start it once."""
    if len(lineup.weights) > 0 and (battles[e].over or battles[e].step > 0):
        draw_lineup(battles[e], scene, lineup, e)
    mine = scene_of(scene, lineup, e)
    place_units(units[e], battles[e], mine, positions)
    look_east(mine)
    observe(units[e], mine, views.obs[e], views.state[e], views.available_actions[e])
    clear_last_actions(mine, views.state[e])


@kernel
def step_battle(units, battles, scene, lineup, e, actions, shuffle, auto_reset, views, scratch):  # type: ignore[no-untyped-def]
    """Steps battle e. One that is over and not reset stands still and keeps its flags."""
    battle = battles[e]
    if battle.over:
        views.rewards[e] = 0.0
        return
    mine = scene_of(scene, lineup, e)
    views.rewards[e] = fight(units[e], battle, mine, actions[e], shuffle, scratch)
    won = not anyone_lives(units[e], mine.enemies)
    terminated = won or not anyone_lives(units[e], mine.allies)
    truncated = not terminated and battle.step >= mine.episode_limit
    battle.over = terminated or truncated
    views.terminated[e], views.truncated[e], views.won[e] = terminated, truncated, won
    observe(units[e], mine, views.obs[e], views.state[e], views.available_actions[e])
    clear_last_actions(mine, views.state[e])
    write_last_actions(mine, views.state[e], actions[e])
    if battle.over and auto_reset:
        keep_final(views, e)
        start_battle(units, battles, scene, lineup, e, views.nowhere, views)


@kernel
def keep_final(views, e):  # type: ignore[no-untyped-def]
    """Copies the last obs and state of battle e's episode before they are overwritten."""
    for agent in range(views.obs.shape[1]):
        for k in range(views.obs.shape[2]):
            views.final_obs[e, agent, k] = views.obs[e, agent, k]
    for k in range(views.state.shape[1]):
        views.final_state[e, k] = views.state[e, k]


@kernel
def step_chunk(units, battles, scene, lineup, chunk, chunks, actions, shuffle, auto_reset, views, scratch):  # type: ignore[no-untyped-def]
    """Steps the battles of one of several equal chunks."""
    crowd = (scratch.places[chunk], scratch.planes[chunk], scratch.near[chunk])
    mine = (scratch.lines[chunk], scratch.projected[chunk], scratch.turns[chunk], crowd)
    for e in range(chunk * len(battles) // chunks, (chunk + 1) * len(battles) // chunks):
        step_battle(units, battles, scene, lineup, e, actions, shuffle, auto_reset, views, mine)


@kernel(parallel=True)
def step_all(units, battles, scene, lineup, actions, shuffle, auto_reset, views, scratch):  # type: ignore[no-untyped-def]
    """Steps all battles on all threads. The types are those of a call from Python, or everything is compiled again."""
    chunks = len(scratch.places)
    for chunk in numba.prange(chunks):
        step_chunk(units, battles, scene, lineup, np.int64(chunk), chunks, actions, shuffle, auto_reset, views, scratch)


@kernel
def first_refused(battles, actions, available):  # type: ignore[no-untyped-def]
    """(battle, agent) of the first action that is not available in a running battle, or (-1, -1)."""
    for e in range(len(battles)):
        if not battles[e].over:
            for agent in range(actions.shape[1]):
                action = actions[e, agent]
                if action < 0 or action >= available.shape[2] or not available[e, agent, action]:
                    return e, agent
    return -1, -1
