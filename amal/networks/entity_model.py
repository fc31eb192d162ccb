"""The entity-wise world model: what each unit does next follows from all units, their pairs and what it remembers.

Letters: M battles, N agents, U units (agents first), F features of a unit, T steps, D width, H memory, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from amal.battle.battlefield import FIELD_SIZE, MOVE_ACTIONS, Scenario
from amal.battle.observer import TARGET_DISTANCE
from amal.networks.layers import beside, linear, logistic
from amal.networks.unit_views import COOLDOWN, HP, SHIELD, TYPES, UnitViews, X, Y
from amal.ops.divergence import kl_divergence
from amal.ops.losses import invert_categorical, log_softmax, probabilities
from amal.ops.pair_messages import PAIR_FEATURES, pair_messages
from amal.ops.recurrence import gated_recurrence
from amal.ops.two_hot import two_hot
from amal.replay import RealSequences
from amal.runtime.argument_checks import check_at_least
from amal.runtime.distributed import summed

ORDERS = MOVE_ACTIONS + 1  # no-op, stop, four moves, any target
# of hp and shield within a step, in shares of the whole: finer where shots are weak; two medivacs heal a marine by 0.2
CHANGES = (-1.0, -0.75, -0.55, -0.4, -0.3, -0.22, -0.16, -0.11, -0.07, -0.03, 0.0, 0.03, 0.1, 0.2)
UNCHANGED = CHANGES.index(0.0)
MOTION = 3  # outputs: next cooldown; changes of x and y
DEATH = MOTION  # the next one; then the chances of each change of hp, and of each of shield
OUTPUTS = DEATH + 1 + 2 * len(CHANGES)
HP_SCALE = 5.0  # of changes, so that a typical one is about 1
LEAST_HP = 0.01  # of a unit that lives on
RIDGE = 1e-3
KEEP = 30.0  # what opens the gate through which the memory stays as it was


class EntityWorldModel(nn.Module):
    """Units and their pairs pass messages; each unit keeps a memory, for the state hides when an enemy shoots next.

    Of a unit it expects the change of position, the next cooldown, the chance that it dies, and how likely each change
    of health and shield is if it does not; of the team the reward, linear in health taken, kills and victory, by least
    squares. Permuting units permutes what is expected. Nothing but deaths and damage is drawn; they are, for a shot
    hits one unit or another, and half a shot at each would kill neither. The views follow from units by ``UnitViews``.

    Args:
        n_agents, n_actions, obs_dim, state_dim: sizes that the scenario has too.
        scenario: names of the views' features; other back ends have none.
        width: D.
        memory: H.
        rounds: of messages.
        past: real steps before a moment over which the memory is built up.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        scenario: Scenario | None,
        width: int = 48,
        memory: int = 24,
        rounds: int = 1,
        past: int = 8,
    ) -> None:
        super().__init__()
        if scenario is None:
            raise ValueError("EntityWorldModel needs to know what the features are; use the flat WorldModel")
        check_at_least(1, width=width, memory=memory, rounds=rounds, past=past)
        self.views = UnitViews(scenario)
        self.n_agents, self.past, self.n_memory = n_agents, past, memory
        features = self.views.n_features + 5 + 2 + ORDERS  # of now, changes, side and alive, order
        self.first = nn.Linear(features, width)
        self.speakers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(rounds))
        self.pairs = nn.ModuleList(nn.Linear(PAIR_FEATURES, width, bias=False) for _ in range(rounds))
        self.updates = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(rounds))
        self.to_remember = nn.Linear(width, 3 * memory)
        self.recurrent = nn.Linear(memory, 3 * memory)
        self.from_memory = nn.Linear(width + memory, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, OUTPUTS)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():  # before it learns, nothing changes and nobody dies
            self.head.bias[DEATH] = -3.0
            self.head.bias[[DEATH + 1 + UNCHANGED, DEATH + 1 + UNCHANGED + len(CHANGES)]] = 5.0
        self.changes: Tensor
        self.register_buffer("changes", torch.tensor(CHANGES), persistent=False)
        n_rewards = 2 * max(self.views.n_features - TYPES, 1) + 2
        self.reward_moments: Tensor
        self.register_buffer("reward_moments", torch.zeros(n_rewards, n_rewards + 1, dtype=torch.float64))
        self.reward_weights: Tensor
        self.register_buffer("reward_weights", torch.zeros(n_rewards))

    def initial_memory(self, number: int) -> Tensor:
        return self.head.weight.new_zeros(number, self.views.n_units, self.n_memory)

    def forward(self, before: Tensor, now: Tensor, actions: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Units [M, U, F] one step ago and now, actions [M, N], memory [M, U, H] → outputs [M, U, ...], memory."""
        x, pairs = self._hear(before, now, actions)
        told, remembered = linear(self.to_remember, x).contiguous(), memory.flatten(0, 1)
        remembered = gated_recurrence(told, remembered, self.recurrent.weight, self.recurrent.bias, [len(told)])
        return self._expect(x, remembered, pairs, now[..., HP] > 0), remembered.view_as(memory)

    def _hear(self, before: Tensor, now: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Units [M · U, D] after the first round of messages, and the pairs' features."""
        lives = now[..., HP] > 0
        units, pairs = self._inputs(before, now, actions, lives)
        return self._exchange(0, linear(self.first, units.flatten(0, 1), relu=True), pairs, lives), pairs

    def _expect(self, x: Tensor, memory: Tensor, pairs: Tensor, lives: Tensor) -> Tensor:
        """Outputs [M, U, ...] from what units heard [M · U, D] and remember [M · U, H]."""
        x = x + linear(self.from_memory, beside(x, memory), relu=True)
        for i in range(1, len(self.updates)):
            x = self._exchange(i, x, pairs, lives)
        return linear(self.head, linear(self.hidden, x, relu=True)).unflatten(0, lives.shape)

    def _exchange(self, i: int, x: Tensor, pairs: Tensor, lives: Tensor) -> Tensor:
        """One round of messages."""
        speaker, pair, update = (cast(nn.Linear, layers[i]) for layers in (self.speakers, self.pairs, self.updates))
        spoken = linear(speaker, x).unflatten(0, lives.shape)
        summed, largest = (heard.flatten(0, 1) for heard in pair_messages(spoken, pairs, pair.weight, lives))
        return x + linear(update, beside(x, 0.3 * summed, largest), relu=True)

    def _inputs(self, before: Tensor, now: Tensor, actions: Tensor, lives: Tensor) -> tuple[Tensor, Tensor]:
        """Of units [M, U, ...] and of pairs [M, U, U, 9], receiver first."""
        number, n_units = lives.shape
        changes = torch.where((before[..., HP] > 0).unsqueeze(-1), (now - before)[..., :TYPES], 0.0)
        changes = changes * changes.new_tensor([HP_SCALE, HP_SCALE, 1.0, FIELD_SIZE, FIELD_SIZE])
        scaled = now * now.new_tensor([1.0, 1.0, 1.0, 2.0, 2.0] + [1.0] * (now.shape[-1] - TYPES))
        side = now.new_zeros(n_units)
        side[: self.n_agents] = 1.0
        orders = now.new_zeros(number, n_units, ORDERS)
        orders[:, : self.n_agents] = F.one_hot(actions.clamp_max(ORDERS - 1), ORDERS).to(now.dtype)
        alive = lives.unsqueeze(-1)
        units = [scaled, changes, side.view(1, -1, 1).expand(number, -1, 1), alive.to(now.dtype), orders]
        positions = now[..., X : Y + 1] * FIELD_SIZE
        relative = positions.unsqueeze(1) - positions.unsqueeze(2)
        distance = relative.square().sum(dim=-1).sqrt()
        aims = now.new_zeros(number, n_units, n_units)
        index, _ = self.views.targets(now)
        slot = (actions - MOVE_ACTIONS).clamp_min(0).unsqueeze(-1)
        target = index.gather(2, slot)
        aiming = (actions >= MOVE_ACTIONS).to(now.dtype).unsqueeze(-1)
        aims[:, : self.n_agents] = aims[:, : self.n_agents].scatter(2, target, aiming)
        pairs = [
            relative[..., 0] / TARGET_DISTANCE,
            relative[..., 1] / TARGET_DISTANCE,
            distance / TARGET_DISTANCE,
            (distance < 2.0).to(now.dtype),
            torch.exp(-distance / 2),
            (distance <= TARGET_DISTANCE).to(now.dtype),
            aims,
            aims.transpose(1, 2),
            (side.unsqueeze(0) == side.unsqueeze(1)).to(now.dtype).expand_as(aims),
        ]
        return torch.where(alive, torch.cat(units, dim=-1), 0.0), torch.stack(pairs, dim=-1).clamp(-4.0, 4.0)

    def recall(self, sequences: RealSequences) -> tuple[Tensor, Tensor]:
        """Units [M, 2, U, F] one step before the last step of real stretches and before it, and the memory then."""
        last = sequences.actions.shape[1] - 1
        units = self.views.units(sequences.states)
        now = torch.stack([_one_step_before(units, sequences.happened, last), units[:, last]], dim=1)
        if last == 0:
            return now, self.initial_memory(len(units))
        *_, memory = self.remember(units[:, :last], sequences.actions[:, :last], sequences.happened[:, :last])
        return now, memory[:, -1]

    def outputs(self, sequences: RealSequences) -> tuple[Tensor, Tensor]:
        """Units [M, T+1, U, F] of real stretches, and outputs [M, T, U, ...] of each step."""
        units = self.views.units(sequences.states)
        x, pairs, memory = self.remember(units[:, :-1], sequences.actions, sequences.happened)
        lives = units[:, :-1, :, HP] > 0
        outputs = self._expect(x, memory.flatten(0, 2), pairs, lives.flatten(0, 1))
        return units, outputs.unflatten(0, lives.shape[:2])

    def remember(self, units: Tensor, actions: Tensor, happened: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``_hear`` gives of all steps [M·T], and the memory [M, T, U, H] after each of them."""
        number, length, n_units = units.shape[:3]
        before = torch.stack([_one_step_before(units, happened, t) for t in range(length)], dim=1)
        x, pairs = self._hear(before.flatten(0, 1), units.flatten(0, 1), actions.flatten(0, 1))
        told = linear(self.to_remember, x).reshape(number, length, n_units, 3 * self.n_memory)
        kept = told.new_tensor([0.0, KEEP, 0.0]).repeat_interleave(self.n_memory)
        told = torch.where(happened[:, :, None, None], told, kept).transpose(0, 1).flatten(0, 2)
        first = self.initial_memory(number).flatten(0, 1)
        weights = (self.recurrent.weight, self.recurrent.bias)
        memory = gated_recurrence(told, first, *weights, [len(first)] * length)
        return x, pairs, memory.view(length, number, n_units, self.n_memory).transpose(0, 1)

    def losses(self, sequences: RealSequences) -> dict[str, Tensor]:
        """Losses by part, of real stretches: cross-entropies of "health" and "death", squared errors of "motion"."""
        units, outputs = self.outputs(sequences)
        now, after = units[:, :-1], units[:, 1:]
        lived = (now[..., HP] > 0) & sequences.happened.unsqueeze(-1)
        survived = lived & (after[..., HP] > 0)
        changed = two_hot((after - now)[..., HP : SHIELD + 1], self.changes)
        death = F.binary_cross_entropy_with_logits(outputs[..., DEATH], (~survived).to(now.dtype), reduction="none")
        return {
            "health": -_mean((changed * _change_log_probs(outputs)).sum(dim=(-2, -1)), survived),
            "motion": _mean((outputs[..., :MOTION] - moved(now, after)).square().sum(dim=-1), survived),
            "death": _mean(death, lived),
        }

    @torch.no_grad()
    def learn_rest(self, sequences: RealSequences) -> None:
        """Learns from real stretches what has no gradient: rewards and paths. The same in all processes."""
        units = self.views.units(sequences.states[:, -2:])
        self.views.learn_paths(units[:, 0], sequences.last.available_actions)
        self.views.paths = summed((~self.views.paths).long()) == 0
        x = self.reward_features(units[:, 0], units[:, 1]).double()
        y = sequences.last.rewards[:, :1].double()
        self.reward_moments += summed(x.T @ torch.cat([x, y], dim=-1))
        gram, moment = self.reward_moments[:, :-1], self.reward_moments[:, -1]
        ridge = RIDGE * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self.reward_weights.copy_(torch.linalg.solve(gram + ridge, moment))

    def reward_features(self, now: Tensor, after: Tensor) -> Tensor:
        """What rewards are linear in: hp and shield that enemies of each type lost, kills, victory; [M, ...]."""
        enemies, later = now[:, self.n_agents :], after[:, self.n_agents :]
        types = enemies[..., TYPES:] if enemies.shape[-1] > TYPES else torch.ones_like(enemies[..., :1])
        lost = (enemies - later)[..., HP : SHIELD + 1].clamp_min(0.0)
        kills = (enemies[..., HP] > 0) & (later[..., HP] <= 0)
        victory = (later[..., HP] <= 0).all(dim=-1) & kills.any(dim=-1)
        parts = [(lost[..., HP, None] * types).sum(dim=1), (lost[..., SHIELD, None] * types).sum(dim=1)]
        counts = torch.stack([kills.sum(dim=1), victory], dim=-1).to(now.dtype)
        return torch.cat([*parts, counts], dim=-1)

    @torch.no_grad()
    def step(
        self, before: Tensor, now: Tensor, actions: Tensor, memory: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One outcome: units [M, U, F], the team's reward [M], and the next memory. Other arguments as of ``forward``
        and ``outcome``."""
        outputs, memory = self(before, now, actions, memory)
        after = self.outcome(now, outputs, generator)
        return after, self.rewards(now, after), memory

    @torch.no_grad()
    def outcome(self, now: Tensor, outputs: Tensor, generator: Generator | None) -> Tensor:
        """Units [M, U, F] after a step with these outputs [M, U, ...]. Deaths and damage are drawn; without a generator
        they are the likelier of death and life and the mean damage."""
        log_probs = _change_log_probs(outputs)
        chance = logistic(outputs[..., DEATH])
        if generator is None:
            draw, change = torch.full_like(chance, 0.5), probabilities(log_probs) @ self.changes
        else:
            draw = torch.rand(chance.shape, generator=generator, device=chance.device)
            # the same u for hp and shield: a shot that reaches the one has taken the other
            u = torch.rand((*chance.shape, 1, 1), generator=generator, device=chance.device)
            change = self.changes[invert_categorical(log_probs, u.expand(*log_probs.shape[:-1], 1))]
        after = now.clone()
        after[..., HP] = (now[..., HP] + change[..., 0]).clamp(LEAST_HP, 1.0)
        after[..., SHIELD] = (now[..., SHIELD] + change[..., 1]).clamp(0.0, 1.0)
        after[:, : self.n_agents, COOLDOWN] = outputs[:, : self.n_agents, 0].clamp(0.0, 1.0)
        after[..., X : Y + 1] = now[..., X : Y + 1] + outputs[..., 1:MOTION] / FIELD_SIZE
        survives = (now[..., HP] > 0) & (chance <= draw)
        return torch.where(survives.unsqueeze(-1), after, 0.0)

    @torch.no_grad()
    def expected(self, outputs: Tensor) -> Tensor:
        """What members of an ensemble can disagree about, of outputs [..., U, ...]: scaled changes of hp and shield,
        motion, the chance of death; [..., U, 6]."""
        damage = probabilities(_change_log_probs(outputs)) @ self.changes * HP_SCALE
        return torch.cat([damage, outputs[..., :MOTION], logistic(outputs[..., DEATH : DEATH + 1])], dim=-1)

    def rewards(self, now: Tensor, after: Tensor) -> Tensor:
        """[M], the team's for a step from units [M, U, F] to units [M, U, F]."""
        return self.reward_features(now, after) @ self.reward_weights


def disagreement(expected: Tensor, lives: Tensor) -> Tensor:
    """How far apart members of an ensemble are in what they expect, [M]: the variance of ``expected`` [E, M, U, 6],
    summed, mean over living units [M, U]."""
    apart = expected.var(dim=0, correction=0).sum(dim=-1)
    return (apart * lives).sum(dim=-1) / lives.sum(dim=-1).clamp_min(1)


def outcome_kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(p ‖ q) of a unit's next step by the outputs [..., U, ...] of two models, [..., U]: of death, and if the unit
    lives on, of its motion (a Gaussian of variance 1, whose mean the squared error fits) and of both changes."""
    p, q = (log_softmax(F.pad(outputs[..., DEATH : DEATH + 1], (0, 1))) for outputs in (ours, theirs))  # dies, lives
    motion = 0.5 * (ours - theirs)[..., :MOTION].square().sum(dim=-1)
    changes = kl_divergence(_change_log_probs(ours), _change_log_probs(theirs)).sum(dim=-1)
    return kl_divergence(p, q) + p[..., 1].exp() * (motion + changes)


def _one_step_before(units: Tensor, happened: Tensor, t: int) -> Tensor:
    """Units [M, U, F] one step before step t of stretches [M, T+1, U, F]; as they are at t where that did not happen,
    [M, T]."""
    if t == 0:
        return units[:, 0]
    return torch.where(happened[:, t - 1].view(-1, 1, 1), units[:, t - 1], units[:, t])


def moved(now: Tensor, after: Tensor) -> Tensor:
    """What the outputs of motion should be: the next cooldown, scaled changes of x and y. [..., U, 3]."""
    return torch.cat([after[..., COOLDOWN, None], (after - now)[..., X : Y + 1] * FIELD_SIZE], dim=-1)


def _change_log_probs(outputs: Tensor) -> Tensor:
    """Of each change of hp, and of each of shield: outputs [..., U, ...] → [..., U, 2, K]."""
    return log_softmax(outputs[..., DEATH + 1 :].unflatten(-1, (2, len(CHANGES))))


def _mean(x: Tensor, counts: Tensor) -> Tensor:
    return (x * counts).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def entity_errors(
    model: EntityWorldModel, states: Tensor, actions: Tensor, mask: Tensor, horizons: Sequence[int]
) -> dict[str, Tensor]:
    """Squared errors of the model after so many steps in which it saw only what it imagined, as imagination does but
    for what it draws, in shares of those of "nothing changes".

    Args:
        model: judged.
        states, actions, mask: [B, T+1, S], [B, T, N] and [B, T] bool of real episodes that it has not learned from.
        horizons: at most T each.

    Returns:
        "health_error_h" of units that lived at the start, "position_error_h" of those that live on; NaN if there are
        none.
    """
    units, n_steps = model.views.units(states), actions.shape[1]
    *_, memory = model.remember(units[:, :-1], actions, mask)
    unmoved = torch.cat([torch.zeros_like(memory[:, :1]), memory[:, :-1]], dim=1)
    before, now = (x.flatten(0, 1) for x in (units[:, [0, *range(n_steps - 1)]], units[:, :-1]))
    inner, start, errors = unmoved.flatten(0, 1), now, {}
    first = torch.arange(n_steps, device=units.device)
    for h in range(1, max(horizons) + 1):
        then = (first + h - 1).clamp_max(n_steps - 1)
        after, _, inner = model.step(before, now, actions[:, then].flatten(0, 1), inner, None)
        before, now = now, after
        if h not in horizons:
            continue
        truth = units[:, then + 1].flatten(0, 1)
        happened = (mask[:, then] & (first + h <= n_steps)).flatten(0, 1).unsqueeze(-1)
        lived = (start[..., HP] > 0) & happened
        stayed = lived & (truth[..., HP] > 0) & (now[..., HP] > 0)
        for name, columns, counts in (("health", [HP, SHIELD], lived), ("position", [X, Y], stayed)):
            ours, trivial = (
                ((guess - truth)[..., columns].square().sum(dim=-1) * counts).sum() for guess in (now, start)
            )
            errors[f"{name}_error_{h}"] = ours / trivial
    return errors
