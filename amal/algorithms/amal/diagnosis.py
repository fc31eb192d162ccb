"""Which part of AMAL gives the policy what: measured on real battles that training never sees.

Letters: B episodes, M transitions, N agents, S state size, P parameters of the policy, I auxiliary agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.amal.off_policy import off_policy_targets
from amal.algorithms.minibatches import Transitions, rows_of
from amal.networks.policies import Policy
from amal.networks.world_model_ensemble import WorldModelEnsemble, open_loop_errors
from amal.networks.world_models import gaussian_log_likelihood
from amal.ops.losses import chosen_log_probs, mean
from amal.ops.populations import flat_parameters
from amal.replay import REAL, Experience, RealExperience
from amal.rollout.collector import EpisodeRecorder
from amal.types import EpisodeBatch

HORIZONS = (1, 2, 3, 5, 8, 12)  # steps ahead
REPLAYED = 4096  # transitions of each kind, as many as an update of 16 minibatches replays


def gradient_alignment(module: AMAL, fresh: EpisodeBatch, reference: EpisodeBatch) -> dict[str, float]:
    """Cosines between the policy's gradient on ``reference``, many episodes of the policy as it is, and that on data
    that an update has: its own fresh episodes, replayed steps, imagined steps, and the sum of the fresh gradient and
    that of replay as the module mixes it. "ceiling" is the cosine between the halves of the reference.

    NaN where there is no such data. Advantages are those of rewards, without an information bonus.
    """
    half = len(reference.mask) // 2
    ours, first, second, own = (
        policy_gradient(module, module.estimate_advantages(episodes, is_real=False)[0])
        for episodes in (reference, reference[:half], reference[half:], fresh)
    )
    found = {"fresh": own}
    if module.replay is not None:
        replay, replay_buffer = module.replay, module.replay_buffer
        drawn = replay_buffer.sample_mixed(REPLAYED, replay.aux_ratio).to(module.device)
        kinds = {"replayed": drawn.provenance == REAL, "imagined": drawn.provenance != REAL}
        for name, which in kinds.items():
            if which.any():
                steps, _ = off_policy_targets(module, drawn[which.nonzero().squeeze(-1)], replay.importance_cap)
                found[name] = policy_gradient(module, steps)
        mixed, _ = replay.draw(module, replay_buffer, n_minibatch=REPLAYED // replay.batch_size)
        found["update"] = own + replay.coef * policy_gradient(module, mixed)
    names = ("fresh", "replayed", "imagined", "update")
    cosines = {f"gradient_{name}": _cosine(found[name], ours) if name in found else float("nan") for name in names}
    return {**cosines, "gradient_ceiling": _cosine(first, second)}


def policy_gradient(module: AMAL, transitions: Transitions) -> Tensor:
    """∇_φ of the mean of Â log π_φ(a) over living agents, the surrogate's gradient where the ratio is 1: [P]."""
    with torch.enable_grad():
        rows = rows_of(transitions.alive)
        lived = transitions.at_rows(rows)
        logits = module.policy.at_rows(transitions.obs, rows)
        objective = mean(chosen_log_probs(logits, lived.available_actions, lived.actions) * lived.advantages)
        gradients = torch.autograd.grad(objective, list(module.policy.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def model_errors(world_model: WorldModelEnsemble, episodes: EpisodeBatch) -> dict[str, float]:
    """Errors of the observations that a world model expects, and of expecting no change, by horizon."""
    views = (episodes.obs, episodes.state, episodes.available_actions, episodes.actions)
    table: dict[str, float] = {}
    for horizon in (h for h in HORIZONS if h <= episodes.mask.shape[1]):
        errors = open_loop_errors(world_model, *views, horizon, episodes.mask)
        table |= {f"model_{horizon}": errors["obs"].item(), f"nothing_changes_{horizon}": errors["obs_trivial"].item()}
    return table


@torch.no_grad()
def surprise_correlation(module: AMAL, episodes: EpisodeBatch) -> float:
    """Spearman's correlation over steps between the information î and the world model's surprise, −log p(o' | o, a):
    1 if the bonus points at what the model does not know yet, NaN without a bonus."""
    if module.estimator is None or module.averaged_model is None:
        return float("nan")
    lived = RealExperience.of_episodes(episodes)
    information = module.estimator.per_transition(module.averaged_model, module.policy, lived)
    means, log_vars = module.averaged_model.outcomes(lived.obs, lived.state, lived.actions, lived.alive)
    surprise = -gaussian_log_likelihood(lived.next_obs, means.mean(dim=0), log_vars.mean(dim=0))
    per_step = torch.where(lived.alive, surprise, 0.0).sum(dim=-1) / lived.alive.sum(dim=-1).clamp_min(1)
    return float(stats.spearmanr(information.cpu().numpy(), per_step.cpu().numpy()).statistic)


def coverage(
    module: AMAL, recorder: EpisodeRecorder, reference: EpisodeBatch, generator: torch.Generator, known: Experience
) -> dict[str, float]:
    """What the auxiliary agents do in the real battle, which they never play otherwise.

    "auxiliary_reach" is the mean distance of the states that they come to from the nearest of the ``known`` ones, each
    number of the state measured in its standard deviation over the known ones; "policy_reach" that of the policy's.
    "auxiliary_return" is the mean return of theirs, "policy_return" of the policy's.
    """
    if module.auxiliaries is None:
        return {f"{who}_{what}": float("nan") for who in ("auxiliary", "policy") for what in ("reach", "return")}
    scale = known.state.std(dim=0).clamp_min(1e-2)
    stored = known.state / scale
    distances, returns = [], []
    for parameters in module.population:
        with playing_as(module.policy, parameters):
            played = recorder.play(module, recorder.battle.num_battles, generator)
        returns.append(played.returns.mean().item())
        distances.append(_nearest(played, stored, scale))
    own = _nearest(reference[: recorder.battle.num_battles * len(distances)], stored, scale)
    return {
        "auxiliary_reach": float(np.mean(distances)),
        "policy_reach": own,
        "auxiliary_return": float(np.mean(returns)),
        "policy_return": reference.returns.mean().item(),
    }


@contextmanager
def playing_as(policy: Policy, parameters: Tensor) -> Iterator[None]:
    """The policy with other parameters [P] for a while; afterwards its own, bit for bit."""
    own = flat_parameters(policy)
    with torch.no_grad():
        nn.utils.vector_to_parameters(parameters, policy.parameters())
    try:
        yield
    finally:
        with torch.no_grad():
            nn.utils.vector_to_parameters(own, policy.parameters())


@contextmanager
def undisturbed(module: AMAL) -> Iterator[None]:
    """Whatever is drawn from the module's random streams inside is drawn again afterwards."""
    minibatches, mixed = module.generator.get_state(), module.replay_buffer.mixed_stream.bit_generator.state
    try:
        yield
    finally:
        module.generator.set_state(minibatches)
        module.replay_buffer.mixed_stream.bit_generator.state = mixed


def _cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a, b, dim=0).item()


def _nearest(episodes: EpisodeBatch, stored: Tensor, scale: Tensor) -> float:
    states = episodes.state[:, :-1][episodes.mask].to(stored.device) / scale
    return torch.cdist(states, stored).amin(dim=1).mean().item()
