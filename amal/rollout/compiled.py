"""Whole episodes of a feed-forward policy in one compiled call: battles, network, choice of actions and recording.

The ordinary path calls the actor at every step of a few battles, and most of its time is call overhead. Here numba
plays until the last episode has ended, on several threads that do not need the interpreter.

Letters: E battles, N agents, A actions, F features of an observation, W width of the hidden layers, L of them after the
first, R rows of living agents, B episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from amal.battle import VectorBattle
from amal.battle.compilation import announced, kernel
from amal.battle.random_stream import next_random
from amal.battle.stepping import CHUNKS, start_battle, step_battle
from amal.types import PlainNetwork

ROWS, INPUTS = 4, 8  # that a block of a product takes at once
GREEDY = np.uint64(0)  # stands for the seed of the actions where none is drawn


class Weights(NamedTuple):
    """A policy's parameters, padded with zeros to whole blocks; inputs come before outputs."""

    first: np.ndarray  # [F, W]
    agents: np.ndarray  # [N, W], the first layer's bias and its weights of the agent's id
    middle: np.ndarray  # [L, W, W]
    middle_biases: np.ndarray  # [L, W]
    last: np.ndarray  # [A, W]
    last_bias: np.ndarray  # [A]


class Work(NamedTuple):
    """Working memory of one share of the battles."""

    features: np.ndarray  # [R, F]
    hidden: np.ndarray  # [2, R, W], a layer's inputs and outputs in turn
    logits: np.ndarray  # [R, A]
    agents: np.ndarray  # [R] int64, whose row it is
    actions: np.ndarray  # [E, N] int64
    episodes: np.ndarray  # [E] int64, which episode each battle plays; -1 for none
    steps: np.ndarray  # [E] int64, of it so far


class Record(NamedTuple):
    """What is recorded of B episodes: fields of EpisodeBatch, padded to the episode limit T, and how they ended."""

    obs: np.ndarray  # [B, T+1, N, O] float32
    state: np.ndarray  # [B, T+1, S] float32
    available_actions: np.ndarray  # [B, T+1, N, A] bool
    actions: np.ndarray  # [B, T, N] int64
    log_probs: np.ndarray  # [B, T, N] float32
    rewards: np.ndarray  # [B, T] float32
    terminated: np.ndarray  # [B, T] bool
    truncated: np.ndarray  # [B, T] bool
    lengths: np.ndarray  # [B] int64
    won: np.ndarray  # [B] bool
    dead_allies: np.ndarray  # [B] int64
    dead_enemies: np.ndarray  # [B] int64


# --- the network ------------------------------------------------------------------------------------------------------

# Not for the battles: a fused multiplication and addition rounds once, not twice. Compilation settles which are fused,
# so the numbers of a row depend neither on the rows beside it nor on the threads.
_without_allocation: Any = {"error_model": "numpy", "_nrt": False}
_fused = numba.njit(fastmath={"contract"}, **_without_allocation)
_reordered = numba.njit(fastmath={"contract", "reassoc"}, **_without_allocation)


@_fused
def add_block(x, r, k, w, y0, y1, y2, y3):  # type: ignore[no-untyped-def]
    """Adds to four rows of outputs what eight inputs, from k, contribute to each: y_r += Σ_k x_rk w_k.

    A number that is loaded takes part in several multiplications, and the loop over outputs is one of vectors."""
    w0, w1, w2, w3, w4, w5, w6, w7 = w[k], w[k + 1], w[k + 2], w[k + 3], w[k + 4], w[k + 5], w[k + 6], w[k + 7]
    x0, x1, x2, x3 = x[r], x[r + 1], x[r + 2], x[r + 3]
    a0, a1, a2, a3, a4, a5, a6, a7 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3], x0[k + 4], x0[k + 5], x0[k + 6], x0[k + 7]
    b0, b1, b2, b3, b4, b5, b6, b7 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3], x1[k + 4], x1[k + 5], x1[k + 6], x1[k + 7]
    c0, c1, c2, c3, c4, c5, c6, c7 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3], x2[k + 4], x2[k + 5], x2[k + 6], x2[k + 7]
    d0, d1, d2, d3, d4, d5, d6, d7 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3], x3[k + 4], x3[k + 5], x3[k + 6], x3[k + 7]
    for o in range(len(y0)):
        v0, v1, v2, v3, v4, v5, v6, v7 = w0[o], w1[o], w2[o], w3[o], w4[o], w5[o], w6[o], w7[o]
        y0[o] = y0[o] + a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3 + a4 * v4 + a5 * v5 + a6 * v6 + a7 * v7
        y1[o] = y1[o] + b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3 + b4 * v4 + b5 * v5 + b6 * v6 + b7 * v7
        y2[o] = y2[o] + c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3 + c4 * v4 + c5 * v5 + c6 * v6 + c7 * v7
        y3[o] = y3[o] + d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3 + d4 * v4 + d5 * v5 + d6 * v6 + d7 * v7


@_fused
def add_product(x, n_rows, w, y):  # type: ignore[no-untyped-def]
    """y += x w of the first rows, whole blocks of them; x [R, K], w [K, W], y [R, W]."""
    for k in range(0, len(w), INPUTS):
        for r in range(0, n_rows, ROWS):
            add_block(x, r, k, w, y[r], y[r + 1], y[r + 2], y[r + 3])


@_reordered
def few_outputs(x, n_rows, w, bias, y):  # type: ignore[no-untyped-def]
    """y = x wᵀ + b of a dozen outputs, too few for vectors of them: x [R, W], w [A, W], y [R, A]."""
    for r in range(n_rows):
        inputs = x[r]
        for a in range(len(w)):
            weights = w[a]
            total = bias[a]
            for k in range(len(weights)):
                total += inputs[k] * weights[k]
            y[r, a] = total


@kernel
def copy_row(source, target):  # type: ignore[no-untyped-def]
    """Row to row, as far as the first goes; numba's own assignment would allocate."""
    for k in range(len(source)):
        target[k] = source[k]


@kernel
def rectify(x, n_rows):  # type: ignore[no-untyped-def]
    """ReLU in place, of the first rows."""
    for r in range(n_rows):
        row = x[r]
        for o in range(len(row)):
            row[o] = max(row[o], np.float32(0.0))


@kernel
def write_logits(weights, work, n_rows):  # type: ignore[no-untyped-def]
    """Writes the logits of the first rows, whole blocks of them."""
    inputs, outputs = work.hidden[0], work.hidden[1]
    for r in range(n_rows):
        copy_row(weights.agents[work.agents[r]], inputs[r])
    add_product(work.features, n_rows, weights.first, inputs)
    rectify(inputs, n_rows)
    for layer in range(len(weights.middle)):
        for r in range(n_rows):
            copy_row(weights.middle_biases[layer], outputs[r])
        add_product(inputs, n_rows, weights.middle[layer], outputs)
        rectify(outputs, n_rows)
        inputs, outputs = outputs, inputs
    few_outputs(inputs, n_rows, weights.last, weights.last_bias, work.logits)


@kernel
def choose(logits, available, bits, greedy):  # type: ignore[no-untyped-def]
    """(action, its log-probability) of a living agent: the likeliest, or drawn by inversion with 64 random bits.

    As masked_log_softmax and sample_categorical of amal.ops.losses; logits [A], available [A]."""
    top, action = -math.inf, -1
    for a in range(len(available)):
        if available[a] and (action < 0 or logits[a] > top):
            top, action = np.float64(logits[a]), a
    total = 0.0
    for a in range(len(available)):
        if available[a]:
            total += math.exp(logits[a] - top)
    if not greedy:
        goal, cumulative = np.int64(bits >> np.uint64(11)) * 2.0**-53 * total, 0.0
        for a in range(len(available)):
            if available[a]:
                cumulative += math.exp(logits[a] - top)
                action = a
                if cumulative > goal:
                    break
    return action, logits[action] - top - math.log(total)


@kernel
def drawn_bits(seed, episode, number):  # type: ignore[no-untyped-def]
    """The ``number``-th 64 random bits of an episode's own stream, whatever the order of the calls."""
    _, stream = next_random(seed + np.uint64(episode) * np.uint64(0x9E3779B97F4A7C15))
    _, bits = next_random(stream + np.uint64(number) * np.uint64(0x9E3779B97F4A7C15))
    return bits


# --- the episodes -----------------------------------------------------------------------------------------------------


@kernel
def keep_views(views, e, record, episode, step):  # type: ignore[no-untyped-def]
    """Records what is seen before a step, or at the end."""
    copy_row(views.state[e], record.state[episode, step])
    for agent in range(views.obs.shape[1]):
        copy_row(views.obs[e, agent], record.obs[episode, step, agent])
        copy_row(views.available_actions[e, agent], record.available_actions[episode, step, agent])


@kernel
def keep_end(units, scene, views, e, record, episode, length):  # type: ignore[no-untyped-def]
    """Records how an episode ended."""
    keep_views(views, e, record, episode, length)
    record.lengths[episode] = length
    record.won[episode] = views.won[e]
    record.dead_allies[episode] = record.dead_enemies[episode] = 0
    for me in scene.allies:
        record.dead_allies[episode] += units[e, me].hp <= 0.0
    for me in scene.enemies:
        record.dead_enemies[episode] += units[e, me].hp <= 0.0


@kernel
def gather_rows(views, first, last, work, record):  # type: ignore[no-untyped-def]
    """Records the views of the battles first … last - 1 and gathers the rows of their living agents; returns how many
    there are, filled up to whole blocks."""
    n_rows = 0
    for e in range(first, last):
        if work.episodes[e] < 0:
            continue
        keep_views(views, e, record, work.episodes[e], work.steps[e])
        for agent in range(views.obs.shape[1]):
            if views.available_actions[e, agent, 0]:
                continue  # only the dead can do nothing
            copy_row(views.obs[e, agent], work.features[n_rows])
            work.agents[n_rows] = agent
            n_rows += 1
    while n_rows % ROWS > 0:
        work.features[n_rows, :] = np.float32(0.0)
        work.agents[n_rows] = 0
        n_rows += 1
    return n_rows


@kernel
def choose_actions(views, e, row, seed, greedy, work, record):  # type: ignore[no-untyped-def]
    """Chooses and records the actions of battle e's agents, whose rows begin at ``row``; returns the next one's."""
    episode, step = work.episodes[e], work.steps[e]
    n_agents = views.obs.shape[1]
    for agent in range(n_agents):
        action, log_prob = 0, 0.0
        if not views.available_actions[e, agent, 0]:
            bits = drawn_bits(seed, episode, step * n_agents + agent)
            action, log_prob = choose(work.logits[row], views.available_actions[e, agent], bits, greedy)
            row += 1
        work.actions[e, agent] = record.actions[episode, step, agent] = action
        record.log_probs[episode, step, agent] = log_prob
    return row


@kernel
def play_share(  # type: ignore[no-untyped-def]
    units, battles, scene, lineup, views, shuffle, weights, seed, greedy, share, shares, scratch, work, record
):
    """Plays the episodes of one of several shares of the battles, all of them to their ends.

    Battle e plays the episodes e, e + E, e + 2E … one after the other."""
    crowd = (scratch.places[share], scratch.planes[share], scratch.near[share])
    mine = (scratch.lines[share], scratch.projected[share], scratch.turns[share], crowd)
    first, last = share * len(battles) // shares, (share + 1) * len(battles) // shares
    running = 0
    for e in range(first, last):
        if work.episodes[e] >= 0:
            running += 1
    while running > 0:
        write_logits(weights, work, gather_rows(views, first, last, work, record))
        row = 0
        for e in range(first, last):
            episode, step = work.episodes[e], work.steps[e]
            if episode < 0:
                continue
            row = choose_actions(views, e, row, seed, greedy, work, record)
            step_battle(units, battles, scene, lineup, e, work.actions, shuffle, False, views, mine)
            record.rewards[episode, step] = views.rewards[e]
            record.terminated[episode, step] = views.terminated[e]
            record.truncated[episode, step] = views.truncated[e]
            work.steps[e] = step + 1
            if battles[e].over:
                keep_end(units, scene, views, e, record, episode, step + 1)
                episode += len(battles)
                if episode >= len(record.lengths):
                    work.episodes[e] = -1
                    running -= 1
                else:
                    work.episodes[e], work.steps[e] = episode, 0
                    start_battle(units, battles, scene, lineup, e, views.nowhere, views)


# --- from Python ------------------------------------------------------------------------------------------------------


def can_play(battle: object) -> bool:
    """Whether the battles are the embedded simulator's, against the script."""
    return type(battle) is VectorBattle and battle._opponent_side is None


def weights_of(network: PlainNetwork) -> Weights:
    """The parameters as the kernels want them."""
    (last, last_bias), middle = network.last, network.middle
    width = _whole(max(len(weight) for weight, _ in [(network.first, None), *middle]), INPUTS)
    n_features, n_agents = network.first.shape[1], len(network.agents)
    return Weights(
        first=_padded(network.first.T, _whole(n_features, INPUTS), width),
        agents=_padded(network.agents, n_agents, width),
        middle=_stacked([_padded(weight.T, width, width) for weight, _ in middle], width, width),
        middle_biases=_stacked([_padded(bias, width) for _, bias in middle], width),
        last=_padded(last, len(last), width),
        last_bias=_padded(last_bias, len(last)),
    )


def play_episodes(
    battle: VectorBattle, network: PlainNetwork, arrays: Mapping[str, np.ndarray], seed: int | None, threads: int
) -> Record:
    """Plays B episodes from their start. The battles' own random streams go on, as they do
    in ``VectorBattle``; numbers do not depend on the threads.

    Args:
        battle: E battles that ``can_play``, without automatic reset.
        network: the policy.
        arrays: of the fields of EpisodeBatch that are recorded step by step, [B, episode limit, ...]; written to as far
            as the episodes go.
        seed: of the actions, below 2^63; None plays greedily.
        threads: that may share the battles.
    """
    spec, n_battles, episodes = battle.spec, battle.num_battles, len(arrays["actions"])
    shares = min(threads, n_battles, CHUNKS)
    ends = {name: np.zeros(episodes, np.int64) for name in ("lengths", "dead_allies", "dead_enemies")}
    record = Record(**arrays, **ends, won=np.zeros(episodes, np.bool_))
    weights = weights_of(network)
    numbers = np.arange(n_battles)
    rows = _whole(-(-n_battles // shares) * spec.n_agents, ROWS)
    own = [
        Work(
            features=np.zeros((rows, len(weights.first)), np.float32),
            hidden=np.zeros((2, rows, len(weights.first[0])), np.float32),
            logits=np.zeros((rows, spec.n_actions), np.float32),
            agents=np.zeros(rows, np.int64),
            actions=np.zeros((n_battles, spec.n_agents), np.int64),
            episodes=np.where(numbers < episodes, numbers, -1),
            steps=np.zeros(n_battles, np.int64),
        )
        for _ in range(shares)
    ]
    drawn = (GREEDY if seed is None else np.uint64(seed), seed is None)
    fought = (battle._units, battle._battles, battle._scene, battle._lineup, battle._views, battle.shuffle_units)

    def play(share: int) -> None:
        play_share(*fought, weights, *drawn, share, shares, battle._scratch, own[share], record)

    with announced():
        battle.reset()
        if shares == 1:
            play(0)
        else:
            with ThreadPoolExecutor(shares) as pool:
                list(pool.map(play, range(shares)))
    return record


def _whole(size: int, block: int) -> int:
    """The size, rounded up to whole blocks."""
    return -(-size // block) * block


def _padded(tensor: torch.Tensor, *shape: int) -> np.ndarray:
    """The tensor in an array of that shape, with zeros after it."""
    array = np.zeros(shape, np.float32)
    array[tuple(slice(size) for size in tensor.shape)] = tensor.numpy()
    return array


def _stacked(arrays: list[np.ndarray], *shape: int) -> np.ndarray:
    """[L, *shape], of any number of arrays."""
    return np.stack(arrays) if arrays else np.zeros((0, *shape), np.float32)
