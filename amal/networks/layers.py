"""Layers that policies, critics and world models are made of.

Letters: N agents, F features, R rows.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import compress, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amal.ops.dense import broadcast_sum, can_multiply, dense, padded_size
from amal.ops.layer_norm import layer_norm
from amal.runtime.machine import one_thread

RELU_GAIN = math.sqrt(2.0)
MANY_ROWS = 256  # for fewer the quicker products of amal.ops.dense save less than what is around them costs


def orthogonal_(weight: Tensor, gain: float = 1.0) -> None:
    """Fill a weight with an orthogonal matrix (Saxe et al. 2014, arXiv:1312.6120) times ``gain``.

    On one thread: the decomposition behind it rounds differently on more, and equal seeds must give equal weights.
    """
    with one_thread():
        nn.init.orthogonal_(weight, gain)


def orthogonal_linear(in_features: int, out_features: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights and zero biases."""
    layer = nn.Linear(in_features, out_features)
    orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def few_outputs(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """A layer of a dozen outputs on its inputs [R, F] → [R, out], each output's rows side by side in memory.

    The other way around such a product takes MKL more than twice as long, where it must not round by number of threads.
    """
    return torch.addmm(layer.bias.unsqueeze(-1), layer.weight, inputs.t()).t()


def linear(layer: nn.Linear, x: Tensor, relu: bool = False) -> Tensor:
    """A layer on its inputs [R, F] → [R, out], and a ReLU on request; by ``amal.ops.dense`` where that can."""
    if can_multiply(x, layer.weight):  # of any number of rows: MKL's products of few round by number of threads
        return dense(x, layer.weight, layer.bias, relu)
    y = cast(Tensor, layer(x))
    return F.relu(y) if relu else y


def beside(*parts: Tensor) -> Tensor:
    """[R, F_i] each → [R, Σ F_i], each feature's rows side by side in memory, as ``amal.ops.dense`` likes them."""
    return torch.cat([part.t() for part in parts]).t()


def logistic(x: Tensor) -> Tensor:
    """σ(x) = ½ + ½ tanh ½x; [...] → [...]. torch's own sigmoid rounds by number of threads."""
    return torch.tanh(0.5 * x).mul(0.5).add_(0.5)


def standardized(x: Tensor) -> Tensor:
    """LayerNorm over the last dimension (Ba et al. 2016, arXiv:1607.06450), for use before a linear layer, which can
    express gain and bias itself."""
    return F.layer_norm(x, x.shape[-1:])


class LayerNorm(nn.Module):
    """``amal.ops.layer_norm`` with a gain and a bias of its own, which start at 1 and 0.

    Args:
        size: F.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] → [..., F]."""
        return layer_norm(x, self.gain, self.bias)


class AgentLinear(nn.Module):
    """Linear layer on features ⊕ one-hot agent id, without building the id: W_f x + W_id[agent] + b.

    The features may come in several parts, and a part that all agents share is multiplied once, not once per agent.
    There is one weight over all of it, so that its orthogonal initialisation is that of the plain concatenated layer.

    Args:
        in_features: F, size of all parts together.
        n_agents: N.
        out_features: size of the output.
        gain: of the orthogonal initialisation.
        feature_norm: the features are layer-normalised first, all parts together, the id not among them.
    """

    def __init__(
        self,
        in_features: int,
        n_agents: int,
        out_features: int,
        gain: float = RELU_GAIN,
        feature_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.n_agents = n_agents
        self.weight = nn.Parameter(torch.empty(out_features, in_features + n_agents))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.ids: Tensor
        self.register_buffer("ids", torch.eye(n_agents), persistent=False)
        orthogonal_(self.weight, gain)
        self.feature_norm = LayerNorm(in_features) if feature_norm else None

    def forward(self, *parts: Tensor, rows: Tensor | None = None) -> Tensor:
        """Σ_i W_i x_i + W_id + b.

        Args:
            parts: each [..., N, F_i], or [..., 1, F_i] where the agents share it; Σ F_i = F.
            rows: [R] int64 into the flattened [... · N]; by default all.

        Returns:
            [..., N, out], or [R, out] of the rows.
        """
        sizes = [part.shape[-1] for part in parts]
        assert sum(sizes) == self.in_features, f"the parts have sizes {sizes}, expected {self.in_features} in total"
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.feature_norm is not None:
            normalized, weight, bias = self._normalized(self.feature_norm, parts)
            parts, sizes = (normalized,), [self.in_features]
        is_own = [part.shape[-2] == self.n_agents for part in parts]
        flat = [part.flatten(0, -2) for part in parts]
        own = list(compress(flat, is_own))
        if rows is None:
            own.append(self.ids.expand(math.prod(parts[0].shape[:-2]), -1, -1).flatten(0, 1))
        else:
            own = [part.index_select(0, rows) for part in own]
            own.append(self.ids.index_select(0, rows % self.n_agents))
        leading = (*parts[0].shape[:-2], self.n_agents) if rows is None else (len(rows),)
        shape = (*leading, len(weight))
        if all(is_own):
            return F.linear(torch.cat(own, dim=-1), weight, bias).view(shape)
        *weights, id_weight = weight.split([*sizes, self.n_agents], dim=1)
        own_weight = torch.cat([*compress(weights, is_own), id_weight], dim=1)
        is_shared = [not mine for mine in is_own]
        shared, shared_weight = (torch.cat(list(compress(each, is_shared)), dim=1) for each in (flat, weights))
        output = F.linear(shared, shared_weight, bias)
        if rows is None:
            output = output.repeat_interleave(self.n_agents, dim=0)
        else:
            output = output.index_select(0, rows // self.n_agents)
        return torch.addmm(output, torch.cat(own, dim=1), own_weight.t()).view(shape)

    def features_first(self, parts: Sequence[Tensor], rows: Tensor | None) -> Tensor:
        """``forward`` and a ReLU by ``amal.ops.dense``.

        Args:
            parts: [M, N, F_i] each, or [M, 1, F_i] where the agents share it.
            rows: as of ``forward``; then the agents share nothing.

        Returns:
            [N · M, out], all steps of the first agent first, as sums over agents are quickest then; or [R, out].
        """
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.feature_norm is not None:
            normalized, weight, bias = self._normalized(self.feature_norm, tuple(parts))
            parts = (normalized,)
        if rows is not None:
            own = [part.flatten(0, 1).index_select(0, rows) for part in parts]
            own.append(self.ids.index_select(0, rows % self.n_agents))
            return dense(torch.cat(own, dim=1), weight, bias, relu=True)
        n_steps = len(parts[0])
        is_own = [part.shape[1] == self.n_agents for part in parts]
        is_shared = [not mine for mine in is_own]
        by_agent = [part.transpose(0, 1) for part in parts]
        own = [*compress(by_agent, is_own), self.ids.unsqueeze(1).expand(-1, n_steps, -1)]
        if all(is_own):
            return dense(torch.cat(own, dim=2).flatten(0, 1), weight, bias, relu=True)
        *weights, id_weight = weight.split([*(part.shape[2] for part in parts), self.n_agents], dim=1)
        shared, shared_weight = (torch.cat(list(compress(each, is_shared)), dim=-1) for each in (by_agent, weights))
        of_steps = dense(shared.flatten(0, 1), shared_weight)
        if any(is_own):
            own_weight = torch.cat([*compress(weights, is_own), id_weight], dim=1)
            of_agents = dense(torch.cat(own, dim=2).flatten(0, 1), own_weight, bias).unflatten(0, (-1, n_steps))
        else:
            of_agents = (id_weight.t() + bias).unsqueeze(1)
        return broadcast_sum(of_steps, of_agents).flatten(0, 1)

    def _normalized(self, norm: LayerNorm, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """All parts as one, normalised, [..., N, F] or [..., 1, F], and the weight and bias to go with it.

        When the layer learns, they hold the norm's gain g and bias c: W_f (g ⊙ x + c) = (W_f diag g) x + W_f c. So the
        features need no gradient, which would take another product of the layer's size. That pays for many rows only.
        """
        if len(parts) > 1:
            n_agents = max(part.shape[-2] for part in parts)
            parts = (torch.cat([part.expand(*part.shape[:-2], n_agents, -1) for part in parts], dim=-1),)
        if not torch.is_grad_enabled():
            return norm(parts[0]), self.weight, self.bias
        of_features, of_ids = self.weight.split([self.in_features, self.n_agents], dim=1)
        weight = torch.cat([of_features * norm.gain, of_ids], dim=1)
        # as a sum: a product with a vector rounds by number of threads on some processors
        return standardized(parts[0]), weight, self.bias + (of_features * norm.bias).sum(dim=1)


class AgentMLP(nn.Module):
    """MLP with ReLUs on features ⊕ agent id; the first layer is an ``AgentLinear``.

    Args:
        in_features: F, size of all parts of the input together.
        n_agents: N.
        hidden_sizes: width of each hidden layer.
        out_features: size of the output.
        output_gain: gain of the last layer's orthogonal initialisation.
        feature_norm: layer normalisation of the features, the agent id not among them.
        layer_norm: layer normalisation after each ReLU.
    """

    def __init__(
        self,
        in_features: int,
        n_agents: int,
        hidden_sizes: Sequence[int],
        out_features: int,
        output_gain: float,
        feature_norm: bool = False,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(hidden_sizes) == 0 or min(hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes must be one or more sizes of at least 1, got {list(hidden_sizes)}")
        self.first = AgentLinear(in_features, n_agents, hidden_sizes[0], feature_norm=feature_norm)
        widths = pairwise(hidden_sizes)
        self.middle = nn.ModuleList(orthogonal_linear(width, following, RELU_GAIN) for width, following in widths)
        self.last = orthogonal_linear(hidden_sizes[-1], out_features, output_gain)
        self.norms = nn.ModuleList(LayerNorm(width) if layer_norm else nn.Identity() for width in hidden_sizes)

    def forward(self, *parts: Tensor, rows: Tensor | None = None) -> Tensor:
        """[..., N, F_i] or [..., 1, F_i] each → [..., N, out]; [R, out] of ``rows``, as of ``AgentLinear``."""
        n_rows = math.prod(parts[0].shape[:-2]) * self.first.n_agents if rows is None else len(rows)
        is_shared = any(part.shape[-2] != self.first.n_agents for part in parts)
        if n_rows >= MANY_ROWS and can_multiply(self.last.weight, *parts) and not (is_shared and rows is not None):
            return self._features_first(parts, rows)
        first = self.first(*parts, rows=rows)
        after_first, *norms = self.norms
        hidden = after_first(F.relu(first.flatten(0, -2), inplace=True))
        for layer, norm in zip(self.middle, norms, strict=True):
            hidden = norm(F.relu(layer(hidden), inplace=True))
        return few_outputs(self.last, hidden).view(*first.shape[:-1], self.last.out_features)

    def _features_first(self, parts: Sequence[Tensor], rows: Tensor | None) -> Tensor:
        """``forward`` by ``amal.ops.dense``, the rows padded to one of its sizes."""
        leading = parts[0].shape[:-2]
        parts = [part.reshape(-1, *part.shape[-2:]) for part in parts]
        n = len(parts[0]) if rows is None else len(rows)
        padding = padded_size(n) - n
        if rows is None:
            parts = [F.pad(part, (0, 0, 0, 0, 0, padding)) for part in parts]
        else:
            rows = torch.cat([rows, rows[:1].expand(padding)])
        after_first, *norms = self.norms
        hidden = after_first(self.first.features_first(parts, rows))
        for layer, norm in zip(cast(Iterable[nn.Linear], self.middle), norms, strict=True):
            hidden = norm(dense(hidden, layer.weight, layer.bias, relu=True))
        outputs = dense(hidden, self.last.weight, self.last.bias)
        if rows is not None:
            return outputs[:n]
        by_agent = outputs.unflatten(0, (-1, n + padding))[:, :n]
        return by_agent.transpose(0, 1).reshape(*leading, *by_agent.shape[::2])
