"""Numbers as distributions over a few fixed values (Schrittwieser et al. 2020, arXiv:1911.08265, appendix F).

Letters: K values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def two_hot(x: Tensor, values: Tensor) -> Tensor:
    """Shares of the two neighbouring values whose mean is x; those beyond the ends count as the end.

    w = (x − v_k) / (v_{k+1} − v_k), v_k ≤ x < v_{k+1}: 1 − w of v_k and w of v_{k+1}

    Args:
        x: [...].
        values: v [K], rising.

    Returns:
        [..., K], summing to 1.
    """
    x = x.clamp(values[0], values[-1]).contiguous()
    above = torch.searchsorted(values, x, right=True).clamp_max(len(values) - 1)
    low, high = values[above - 1], values[above]
    share = ((x - low) / (high - low)).unsqueeze(-1)
    return F.one_hot(above - 1, len(values)) * (1.0 - share) + F.one_hot(above, len(values)) * share
