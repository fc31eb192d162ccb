"""Why does a greedy team lose battles that its sampling self wins? Plays checkpoints by rules between the two.

Usage: python docs/greedy.py CHECKPOINT..., of MAPPO and its like; prints the tables in docs/study.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.ops.losses import masked_log_softmax, sample_categorical
from amal.rollout.collector import EpisodeRecorder
from amal.rollout.load_policy import load_player
from amal.rollout.opponent import make_battles
from amal.types import EpisodeBatch

BATTLES, SEED = 128, 1000
NO_OP, STOP, FIRST_TARGET = 0, 1, 6  # actions: no-op, stop, north, south, east, west, targets
OPPOSITE = torch.tensor([-1, -1, 3, 2, 5, 4])
ALIKE = 20  # steps
TIE = 0.9  # of the probability of the best action: what the second best has in a tie


class Ruled:
    """An actor that chooses from a module's probabilities by the rule of that name."""

    def __init__(self, module: MAPPO, name: str) -> None:
        self.module, self.name = module, name

    @property
    def device(self) -> torch.device:
        return self.module.device

    def initial_hidden(self, num_battles: int) -> Tensor:
        return self.module.initial_hidden(num_battles)

    def act(
        self, obs: Tensor, available: Tensor, hidden: Tensor, generator: torch.Generator | None, progress: float
    ) -> tuple[Tensor, None, Tensor]:
        logits, hidden = self.module.policy(obs.unsqueeze(1), hidden)
        log_probs = masked_log_softmax(logits.squeeze(1), available)
        return RULES[self.name](log_probs, generator), None, hidden


def greedy(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    return log_probs.argmax(dim=-1)


def sharper(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Sampled at half the temperature."""
    return sample_categorical((2 * log_probs).log_softmax(dim=-1), generator)


def any_of_a_tie(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Any action with nearly the probability of the best."""
    tied = log_probs.exp() >= TIE * log_probs.exp().amax(dim=-1, keepdim=True)
    return sample_categorical(tied.float().log().log_softmax(dim=-1), generator)


def best_target(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Sampled whether to attack and where to go, greedy whom to attack."""
    sampled = sample_categorical(log_probs, generator)
    return torch.where(sampled >= FIRST_TARGET, FIRST_TARGET + log_probs[..., FIRST_TARGET:].argmax(dim=-1), sampled)


def attack_if_likely(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Greedy, with the targets together against each other action."""
    target = FIRST_TARGET + log_probs[..., FIRST_TARGET:].argmax(dim=-1)
    together = log_probs[..., FIRST_TARGET:].logsumexp(dim=-1)
    other, action = log_probs[..., :FIRST_TARGET].max(dim=-1)
    return torch.where(together > other, target, action)


RULES = {
    "sampled": sample_categorical,
    "sampled, temperature 0.5": sharper,
    "sampled, best target": best_target,
    "greedy, any of a tie": any_of_a_tie,
    "greedy, targets together": attack_if_likely,
    "greedy": greedy,
}


@torch.inference_mode()
def behaviour(module: MAPPO, batch: EpisodeBatch) -> dict[str, float]:
    """Of the episodes, and of the steps of living agents.

    entropy, best: means of the policy's entropy in nats and of its best action's probability.
    tie: share in which the second best has nearly the probability of the best.
    in reach: share in which a target can be attacked. Of these: split, where all targets together are likelier than any
    other action, but the best target alone is not; attack, what is attacked.
    back: share of moves that undo the agent's last.
    alike: of the actions in the first 20 steps, the share that the same agent takes in most battles in that step.
    focus: of the attackers of a step with two or more, the share on the target that most attack.
    """
    length = batch.actions.shape[1]
    available = batch.available_actions[:, :length].bool()
    logits, _ = module.policy(batch.obs[:, :length], module.initial_hidden(len(batch.actions)))
    log_probs = masked_log_softmax(logits, available)
    lives = batch.mask.unsqueeze(-1) & ~available[..., NO_OP]
    best, second = log_probs.exp().topk(2, dim=-1).values.unbind(dim=-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(~available, 0.0)).sum(dim=-1)
    attacks = batch.actions >= FIRST_TARGET
    can_attack = lives & available[..., FIRST_TARGET:].any(dim=-1)
    targets_together = log_probs[..., FIRST_TARGET:].logsumexp(dim=-1).exp()
    split = targets_together > log_probs[..., :FIRST_TARGET].amax(dim=-1).exp()
    split &= log_probs.argmax(dim=-1) < FIRST_TARGET
    now, before = batch.actions[:, 1:], batch.actions[:, :-1]
    back = (now < FIRST_TARGET) & (now == OPPOSITE[before.clamp(max=FIRST_TARGET - 1)]) & (before < FIRST_TARGET)
    team = (attacks & lives).sum(dim=-1)
    most = torch.stack([(batch.actions == target).logical_and(lives).sum(dim=-1) for target in
                        range(FIRST_TARGET, available.shape[-1])]).amax(dim=0)  # fmt: skip
    ended = batch.truncated.any(dim=1)

    def share(event: Tensor, among: Tensor) -> float:
        return (event & among).sum().item() / max(1, int(among.sum()))

    return {
        "won": batch.won.float().mean().item(),
        "return": (batch.rewards * batch.mask).sum(dim=1).mean().item(),
        "length": batch.mask.sum(dim=1).float().mean().item(),
        "limit": ended.float().mean().item(),
        "entropy": entropy[lives].mean().item(),
        "best": best[lives].mean().item(),
        "tie": share(second >= TIE * best, lives),
        "split": share(split, can_attack),
        "in reach": share(can_attack, lives),
        "attack": share(attacks, can_attack),
        "back": share(back, lives[:, 1:]),
        "alike": (batch.actions[:, :ALIKE] == batch.actions[:, :ALIKE].mode(dim=0).values).float().mean().item(),
        "focus": (most[team >= 2] / team[team >= 2]).mean().item(),
    }


def main(checkpoints: list[Path], battles: int = BATTLES) -> None:
    rows = []
    for checkpoint in checkpoints:
        module, scenario = load_player(checkpoint)
        if not isinstance(module, MAPPO):
            raise SystemExit(f"error: {checkpoint}: a {type(module).__name__} has no probabilities to play by")
        for rule in RULES:
            recorder = EpisodeRecorder(make_battles(scenario, battles, SEED), battles)
            batch = recorder.play(Ruled(module, rule), battles, torch.Generator().manual_seed(SEED))
            rows.append({"rule": rule, "checkpoint": str(checkpoint), **behaviour(module, batch)})
        print(
            checkpoint, show(pd.DataFrame(rows[-len(RULES) :]).drop(columns="checkpoint").set_index("rule")), sep="\n"
        )
    means = pd.DataFrame(rows).drop(columns="checkpoint").groupby("rule", sort=False).mean()
    print(f"\nmean of {len(checkpoints)}", show(means), sep="\n")


def show(table: pd.DataFrame) -> str:
    return table.round(2).to_string(line_width=200)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
