"""Whether a policy, critic or mixer returns what the algorithms expect: tried on zeros, before anything is trained."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amal.networks.critics import Critic
from amal.networks.mixers import Mixer
from amal.networks.policies import Policy
from amal.runtime.source_files import described


def check_policy(policy: Policy, obs_dim: int, n_agents: int, n_actions: int) -> None:
    """Raises ValueError unless the policy returns logits [B, T, N, A] for a batch of zeros."""
    n_rows = n_agents + 1  # another number than the agents', or a mix-up goes unnoticed
    obs = torch.zeros(n_rows, 1, n_agents, obs_dim)
    expected = [n_rows, 1, n_agents, n_actions]
    _check_output(
        "policy", policy, lambda: policy(obs, policy.initial_hidden(n_rows))[0], "logits [B, T, N, A]", expected
    )


def check_critic(critic: Critic, state_dim: int, obs_dim: int, n_agents: int) -> None:
    """Raises ValueError unless the critic returns values [..., N] for a batch of zeros."""
    n_rows = n_agents + 1  # another number than the agents', or a mix-up goes unnoticed
    state, obs = torch.zeros(n_rows, state_dim), torch.zeros(n_rows, n_agents, obs_dim)
    _check_output("critic", critic, lambda: critic(state, obs), "values [..., N]", [n_rows, n_agents])


def check_mixer(mixer: Mixer, state_dim: int, n_agents: int) -> None:
    """Raises ValueError unless the mixer returns values [...] for a batch of zeros."""
    n_rows = n_agents + 1  # another number than the agents', or a mix-up goes unnoticed
    values, state = torch.zeros(n_rows, n_agents), torch.zeros(n_rows, state_dim)
    _check_output("mixer", mixer, lambda: mixer(values, state), "values [...]", [n_rows])


def _check_output(kind: str, module: nn.Module, call: Callable[[], Tensor], what: str, expected: Sequence[int]) -> None:
    """Raises ValueError unless ``call``, of a module in evaluation mode, returns a tensor of that shape.

    Args:
        kind: of the module, in the message.
        module: that is called. In evaluation mode it draws nothing and remembers nothing.
        call: calls it.
        what: it must return, in the message.
        expected: shape.
    """
    name, was_training = type(module).__name__, module.training
    module.eval()
    try:
        with torch.no_grad():
            output = call()
    except Exception as error:
        raise ValueError(f"{kind}: {name} fails on a batch of zeros: {described(error)}") from error
    finally:
        module.train(was_training)
    if list(output.shape) != list(expected):
        raise ValueError(f"{kind}: {name} must return {what} = {list(expected)}, got {list(output.shape)}")
