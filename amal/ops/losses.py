"""Masked categorical policies and the losses of PPO, one function per equation.

``...`` stands for any leading dimensions, A for actions. Losses come per entry; ``masked_mean`` reduces them.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SERIAL_SUM = 2**14  # entries that torch sums on one thread
STD_EPSILON = 1e-8  # ε of a standardisation, which keeps constant input finite
LEAST_LOG_PROB = -80.0  # of an action that may still be taken

Moments = tuple[Tensor, Tensor, Tensor]
"""Mean, variance and number of the entries that count, as scalars."""


def total(x: Tensor) -> Tensor:
    """Σ x, added up in the same order whatever the number of threads, as torch's own sum is not."""
    if x.numel() <= SERIAL_SUM:
        return x.sum()
    return torch.stack([part.sum() for part in x.flatten().split(SERIAL_SUM)]).sum()


def mean(x: Tensor) -> Tensor:
    """Σ x / n of n entries of any shape, as ``total`` adds them up; 0 if there are none."""
    return total(x) / max(x.numel(), 1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries that count, Σ m x / Σ m; 0 if there are none. Entries outside the mask may hold anything.

    Args:
        x: any shape.
        mask: same shape, bool.
    """
    return total(torch.where(mask, x, 0.0)) / mask.sum().clamp_min(1)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Variance over the entries that count, Σ m (x − mean)² / Σ m; arguments as of ``masked_mean``."""
    return masked_mean((x - masked_mean(x, mask)).square(), mask)


def masked_moments(x: Tensor, mask: Tensor) -> Moments:
    """Mean, variance and number of the entries that count; arguments as of ``masked_mean``.

    They are of this process. ``amal.runtime.distributed.pooled`` makes them those of all.
    """
    return masked_mean(x, mask), masked_variance(x, mask), mask.sum()


def standardize(x: Tensor, mask: Tensor, moments: Moments) -> Tensor:
    """Zero mean and unit standard deviation over the entries that count, (x − mean) / (std + ε); 0 elsewhere.

    Args:
        x: any shape.
        mask: same shape, bool.
        moments: as of ``masked_moments``, of these entries or of those of all processes.
    """
    mean, variance, _ = moments
    return torch.where(mask, (x - mean) / (variance.sqrt() + STD_EPSILON), 0.0)


def masked_log_softmax(logits: Tensor, available: Tensor) -> Tensor:
    """Log-probabilities of a categorical policy over the available actions.

    log π(a) = l_a − log Σ_{b available} exp l_b

    Unavailable actions get a finite logit so low that their probability is exactly 0; finite, because an infinite one
    turns the entropy and its gradient into NaN. A row without any available action (padding) is uniform.

    Args:
        logits: [..., A].
        available: [..., A] bool.

    Returns:
        [..., A].
    """
    lowest = torch.finfo(logits.dtype).min / 4  # a quarter leaves room to subtract the largest logit
    return log_softmax(torch.where(available, logits, lowest))


def log_softmax(logits: Tensor) -> Tensor:
    """l_a − log Σ_b exp l_b; [..., A] → [..., A]."""
    # actions first in memory: of rows of a dozen actions each, torch does one after the other, thrice as slow
    return torch.log_softmax(logits.movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)


def probabilities(log_probs: Tensor) -> Tensor:
    """π(a) = exp log π(a), and 0 below e^−80; [..., A], as from ``masked_log_softmax`` → [..., A].

    torch's exponential is forty times slower where it underflows, as it would for unavailable actions. Its softmax
    would do, but rounds by number of threads.
    """
    return torch.where(log_probs > LEAST_LOG_PROB, log_probs.clamp_min(LEAST_LOG_PROB).exp(), 0.0)


def at_actions(x: Tensor, actions: Tensor) -> Tensor:
    """x(a) of the action a of each row.

    Args:
        x: [..., A], a number of each action.
        actions: [...] int64.

    Returns:
        [...].
    """
    return x.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def chosen_log_probs(logits: Tensor, available: Tensor, actions: Tensor) -> Tensor:
    """Log-probabilities of the actions that were chosen, [...], by a policy's logits.

    Args:
        logits: [..., A].
        available: [..., A] bool.
        actions: [...] int64.
    """
    return at_actions(masked_log_softmax(logits, available), actions)


def sample_categorical(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """One action per row, by ``invert_categorical``. Half the time of a Gumbel or exponential race at the sizes of a
    rollout, a quarter of that of ``torch.multinomial``.

    Args:
        log_probs: [..., A].
        generator: source of u ~ U[0, 1).

    Returns:
        [...] int64.
    """
    u = torch.rand((*log_probs.shape[:-1], 1), generator=generator, dtype=log_probs.dtype, device=log_probs.device)
    return invert_categorical(log_probs, u)


def invert_categorical(log_probs: Tensor, u: Tensor) -> Tensor:
    """The action at which the cumulative distribution passes u: the first a with Σ_{b ≤ a} π(b) > u · Σ_b π(b).

    An action of probability 0 adds nothing to the cumulative sum, so it is never first.

    Args:
        log_probs: [..., A].
        u: [..., 1] in [0, 1).

    Returns:
        [...] int64.
    """
    cumulative = probabilities(log_probs).cumsum(dim=-1)
    # the sum may differ from 1 by rounding; u < 1 keeps the product strictly below it
    return torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True).squeeze(-1)


def categorical_entropy(log_probs: Tensor) -> Tensor:
    """Entropy of a categorical policy, −Σ_a π(a) log π(a).

    Args:
        log_probs: [..., A], finite, as from ``masked_log_softmax``; unavailable actions add exactly 0.

    Returns:
        [...].
    """
    return -(probabilities(log_probs) * log_probs).sum(dim=-1)


def entropy_shortfall(entropy: Tensor, floor: float) -> Tensor:
    """What too little entropy costs, ½ max(0, H₀ − H)².

    Its gradient is that of an entropy bonus with weight H₀ − H: none above the floor, the stronger the deeper below it.

    Args:
        entropy: H in nats, a scalar.
        floor: H₀.

    Returns:
        A scalar, to be minimised.
    """
    return 0.5 * (floor - entropy).clamp_min(0.0).square()


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip_param: float) -> Tensor:
    """Clipped surrogate objective, to be maximised (PPO, Schulman et al. 2017, arXiv:1707.06347, eq. 7).

    min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â) with ρ = π(a) / π_old(a)

    Args:
        log_ratio: [...] log π(a) − log π_old(a).
        advantages: [...].
        clip_param: ε.

    Returns:
        [...].
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip_param, 1.0 + clip_param) * advantages)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    value_clip: float,
    value_loss: Literal["mse", "huber"] = "mse",
    huber_delta: float = 10.0,
) -> Tensor:
    """Value loss that gains nothing from moving a value further than ``value_clip`` away from its old one.

    max(ℓ(V − R), ℓ(V_old + clip(V − V_old, −ε, ε) − R)) (MAPPO, Yu et al. 2022, arXiv:2103.01955, appendix, L(φ)), with
    ℓ(e) = e²/2 or Huber's: e²/2 where |e| ≤ δ, else δ (|e| − δ/2).

    Args:
        values: [...] V, normalised.
        old_values: [...] V_old, normalised.
        targets: [...] R, normalised returns.
        value_clip: ε.
        value_loss: ℓ.
        huber_delta: δ; "mse" does not use it.

    Returns:
        [...].
    """

    def error(prediction: Tensor) -> Tensor:
        if value_loss == "huber":
            return F.huber_loss(prediction, targets, reduction="none", delta=huber_delta)
        return 0.5 * (prediction - targets).square()

    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return torch.maximum(error(values), error(clipped))


def approx_kl(log_ratio: Tensor) -> Tensor:
    """Estimate of KL(π_old ‖ π) from actions of π_old, (ρ − 1) − log ρ ≥ 0 (Schulman 2020, "Approximating KL
    divergence", estimator k3: unbiased, low variance).

    Args:
        log_ratio: [...] log ρ = log π(a) − log π_old(a).

    Returns:
        [...].
    """
    return log_ratio.expm1() - log_ratio


def clip_fraction(log_ratio: Tensor, clip_param: float) -> Tensor:
    """1 where the ratio has left the clip range, |ρ − 1| > ε, else 0; averaged, the share of clipped samples.

    Args:
        log_ratio: [...] log ρ.
        clip_param: ε.

    Returns:
        [...].
    """
    return (log_ratio.expm1().abs() > clip_param).to(log_ratio.dtype)


def truncated_importance(log_ratio: Tensor, cap: float) -> Tensor:
    """Truncated importance weight min(π(a) / μ(a), ρ̄) (IMPALA, Espeholt et al. 2018, arXiv:1802.01561, eq. 1).

    Args:
        log_ratio: [...] log π(a) − log μ(a), of the policy and the behaviour that chose a.
        cap: ρ̄.

    Returns:
        [...].
    """
    return log_ratio.clamp(max=math.log(cap)).exp()


def effective_sample_share(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Effective sample size of importance sampling as a share of the samples, (Σ ρ)² / (n Σ ρ²) (Kish 1965).

    Args:
        log_ratio: [...] log ρ.
        mask: same shape, bool, the n entries that count.

    Returns:
        Scalar in (0, 1]; 1 if all weights are equal, 0 for no samples.
    """
    largest = torch.where(mask, log_ratio, -torch.inf).amax()
    ratio = (log_ratio - largest).exp()  # the share does not change when all weights are scaled
    return masked_mean(ratio, mask).square() / masked_mean(ratio.square(), mask).clamp_min(1e-30)
