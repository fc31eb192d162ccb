from functools import partial

import pytest
import torch

from amal.critics import Critic, IPPOCritic, MAPPOCritic

STATE_DIM, OBS_DIM, N_AGENTS = 11, 7, 3
JOINT = partial(MAPPOCritic, joint_obs=True)


@pytest.mark.parametrize("critic_class", [MAPPOCritic, JOINT, IPPOCritic])
@pytest.mark.parametrize("leading", [(4,), (2, 6)])
def test_one_value_per_agent_for_any_leading_dimensions(critic_class: type[Critic], leading: tuple[int, ...]) -> None:
    critic = critic_class(STATE_DIM, OBS_DIM, N_AGENTS)
    state, obs = torch.randn(*leading, STATE_DIM), torch.randn(*leading, N_AGENTS, OBS_DIM)
    values = critic(state, obs)
    assert values.shape == (*leading, N_AGENTS)
    flat = critic(state.view(-1, STATE_DIM), obs.view(-1, N_AGENTS, OBS_DIM))
    torch.testing.assert_close(values.view(-1, N_AGENTS), flat)


@pytest.mark.parametrize(
    ("critic_class", "sees_state", "sees_own_obs"),
    [(MAPPOCritic, True, False), (JOINT, True, True), (IPPOCritic, False, True)],
)
def test_what_a_critic_sees(critic_class: type[Critic], sees_state: bool, sees_own_obs: bool) -> None:
    critic = critic_class(STATE_DIM, OBS_DIM, N_AGENTS)
    state = torch.randn(2, STATE_DIM, requires_grad=True)
    obs = torch.randn(2, N_AGENTS, OBS_DIM, requires_grad=True)
    critic(state, obs)[:, 1].sum().backward()
    assert (state.grad is not None and bool(state.grad.any())) is sees_state
    seen = [obs.grad is not None and bool(obs.grad[:, i].any()) for i in range(N_AGENTS)]
    assert seen == [False, sees_own_obs, False]


@pytest.mark.parametrize("critic_class", [MAPPOCritic, JOINT, IPPOCritic])
def test_agents_are_told_apart_by_their_id_alone(critic_class: type[Critic]) -> None:
    values = critic_class(STATE_DIM, OBS_DIM, N_AGENTS)(torch.zeros(1, STATE_DIM), torch.zeros(1, N_AGENTS, OBS_DIM))
    assert values.unique().numel() == N_AGENTS


def test_mappo_critic_is_an_mlp_on_the_concatenation() -> None:
    critic = MAPPOCritic(STATE_DIM, OBS_DIM, N_AGENTS, hidden_sizes=(16, 8))
    state = torch.randn(5, STATE_DIM)
    hidden = torch.cat([state.unsqueeze(1).expand(-1, N_AGENTS, -1), torch.eye(N_AGENTS).expand(5, -1, -1)], dim=-1)
    weights = [p for p in critic.parameters() if p.dim() == 2]
    assert [tuple(w.shape) for w in weights] == [(16, STATE_DIM + N_AGENTS), (8, 16), (1, 8)]
    for i, weight in enumerate(weights):  # the biases start at 0
        hidden = hidden @ weight.t()
        hidden = hidden.relu() if i < 2 else hidden
    torch.testing.assert_close(critic(state, torch.zeros(5, N_AGENTS, OBS_DIM)), hidden.squeeze(-1))
