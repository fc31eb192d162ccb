"""The side of EPyMARL (Papoudakis et al. 2021, arXiv:2006.07869) that critic classes written for it see.

Letters: B episodes, T time, N agents, O observation size, S state size.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from amal.runtime.source_files import described, load_class

VALUES_ONLY = "output_type must be 'v', a value per agent"


@dataclass(frozen=True)
class Episodes:
    """What such a critic reads, as ``batch["state"]`` and ``batch["obs"]``."""

    state: Tensor  # [B, T, S]
    obs: Tensor  # [B, T, N, O]

    def __getitem__(self, name: str) -> Tensor:
        tensors = {"state": self.state, "obs": self.obs}
        if name not in tensors:
            raise KeyError(f"{name}; the batch has state and obs")
        return tensors[name]

    @property
    def batch_size(self) -> int:
        return self.state.shape[0]

    @property
    def max_seq_length(self) -> int:
        return self.state.shape[1]

    @property
    def device(self) -> torch.device:
        return self.state.device


def build_critic(
    source: str,
    state_dim: int,
    obs_dim: int,
    n_agents: int,
    n_actions: int,
    hidden_size: int,
    obs_individual_obs: bool,
) -> nn.Module:
    """A critic of the class that ``source`` names, checked on zeros.

    Raises:
        ValueError: it cannot be found or built, or is no critic of values with one value per agent.
    """
    critic_class = load_class(source)
    scheme = {"state": {"vshape": state_dim}, "obs": {"vshape": obs_dim}}
    args = SimpleNamespace(
        n_agents=n_agents,
        n_actions=n_actions,
        hidden_dim=hidden_size,
        obs_last_action=False,
        obs_individual_obs=obs_individual_obs,
    )
    try:
        critic = critic_class(scheme, args)
    except Exception as error:
        if isinstance(error, KeyError) and "actions" in str(error):  # scheme["actions_onehot"], of COMA and MADDPG
            raise ValueError(f"source: {source} asks for {error}: a Q critic, {VALUES_ONLY}") from error
        raise ValueError(f"source: {source} cannot be built from (scheme, args): {described(error)}") from error
    if not isinstance(critic, nn.Module):
        raise ValueError(f"source: {source} must be a torch.nn.Module")
    output_type = getattr(critic, "output_type", None)
    if output_type != "v":
        kind = "a Q critic, " if output_type == "q" else ""
        raise ValueError(f"source: {source}: {kind}{VALUES_ONLY}, got {output_type!r}")
    registered = {id(parameter) for parameter in nn.Module.parameters(critic)}
    if not registered or any(id(parameter) not in registered for parameter in critic.parameters()):
        raise ValueError(
            f"source: {source} keeps networks where torch does not find them, so they would be neither trained nor "
            "saved: put them in an nn.ModuleList, and leave parameters() and state_dict() as they are"
        )

    n_rows = n_agents + 1  # another number than the agents', or swapped dimensions would go unnoticed
    zeros = Episodes(torch.zeros(n_rows, 1, state_dim), torch.zeros(n_rows, 1, n_agents, obs_dim))
    try:
        with torch.no_grad():
            values = critic(zeros)
    except Exception as error:
        raise ValueError(f"source: {source} fails on a batch of zeros: {described(error)}") from error
    expected = [n_rows, 1, n_agents, 1]
    got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if got != expected:
        raise ValueError(f"source: {source} must return values [B, T, n_agents, 1] = {expected}, got {got}")
    return critic
