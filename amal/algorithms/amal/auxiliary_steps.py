"""Synthetic experience of the first design: auxiliary agents act inside the world model. It costs no environment steps.

Letters: I auxiliary agents, N agents, M transitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amal.networks.policies import Policy
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.ops.losses import at_actions, masked_log_softmax, sample_categorical
from amal.ops.populations import population_logits
from amal.replay import Experience
from amal.types import alive_agents


@torch.no_grad()
def imagine_steps(
    world_model: WorldModelEnsemble,
    policy: Policy,
    auxiliary: Tensor,
    starts: Experience,
    horizon: int,
    generator: torch.Generator,
) -> Experience:
    """What the auxiliary agents live through from real start states; a battle that ends there goes no further.

    Args:
        world_model: that imagines.
        policy: whose architecture the auxiliary policies have.
        auxiliary: [I, P], their parameters.
        starts: I · n real transitions, whose first halves are the starts; the first n are agent 0's, and so on.
        horizon: steps from each start.
        generator: source of actions and outcomes.

    Returns:
        At most I · n · horizon transitions, with the agents' numbers as provenance.
    """
    n_policies, n_agents = len(auxiliary), starts.obs.shape[1]
    obs, state, available = starts.obs, starts.state, starts.available_actions
    provenance = torch.arange(n_policies, device=obs.device).repeat_interleave(len(starts) // n_policies)
    running = torch.ones_like(starts.done)
    steps = []
    for _ in range(horizon):
        logits = population_logits(policy, auxiliary, obs.unflatten(0, (n_policies, -1)), shared=False).flatten(0, 1)
        log_probs = masked_log_softmax(logits, available)
        actions = sample_categorical(log_probs, generator)
        outcome = world_model.predict(obs, state, actions, alive_agents(available), generator)
        step = Experience(
            obs=obs,
            state=state,
            available_actions=available,
            actions=actions,
            log_probs=at_actions(log_probs, actions),
            rewards=outcome.reward.unsqueeze(-1).expand(-1, n_agents),
            next_obs=outcome.next_obs,
            next_state=outcome.next_state,
            next_available_actions=outcome.next_available,
            done=outcome.done,
            provenance=provenance,
        )
        # battles that ended stay in the batch, so that every policy keeps as many, but are not handed over
        steps.append(step[running.nonzero().squeeze(-1)])
        running &= ~outcome.done
        obs, state, available = outcome.next_obs, outcome.next_state, outcome.next_available
    return Experience.concatenate(steps)
