"""FiLM's critic with one part taken out, to find which part keeps it from learning 2s3z; see docs/critics.md."""

import torch
import torch.nn.functional as F
from torch import Tensor

from amal.networks.critics import FiLMCritic
from amal.networks.layers import standardized


class FiLMWithoutNorm(FiLMCritic):
    """h = γ ⊙ h_s + β + h_o, as it is."""

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        of_state, of_obs = F.relu(self.state(state)).unsqueeze(-2), F.relu(self.observation(obs))
        values: Tensor = self.head(torch.sigmoid(self.scale(of_obs)) * of_state + self.shift(of_obs) + of_obs)
        return values.squeeze(-1)


class FiLMGateOnly(FiLMCritic):
    """h = LayerNorm(γ ⊙ h_s): the observation gates the state and adds nothing of its own."""

    def forward(self, state: Tensor, obs: Tensor) -> Tensor:
        of_state, of_obs = F.relu(self.state(state)).unsqueeze(-2), F.relu(self.observation(obs))
        values: Tensor = self.head(standardized(torch.sigmoid(self.scale(of_obs)) * of_state))
        return values.squeeze(-1)
