"""Critics as people write them for EPyMARL, from the description of its interface. Nothing of this project in here."""

import torch as th
import torch.nn as nn
import torch.nn.functional as F


class CentralVCritic(nn.Module):
    """V of the global state ⊕ agent id, and of the agent's own observation if ``obs_individual_obs``."""

    def __init__(self, scheme, args):
        super().__init__()
        self.args = args
        self.n_actions = args.n_actions
        self.n_agents = args.n_agents
        self.output_type = "v"

        input_shape = scheme["state"]["vshape"] + self.n_agents
        if args.obs_individual_obs:
            input_shape += scheme["obs"]["vshape"]
        assert not args.obs_last_action
        self.fc1 = nn.Linear(input_shape, args.hidden_dim)
        self.fc2 = nn.Linear(args.hidden_dim, args.hidden_dim)
        self.fc3 = nn.Linear(args.hidden_dim, 1)

    def forward(self, batch, t=None):
        inputs = self._build_inputs(batch, t)
        x = F.relu(self.fc1(inputs))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def _build_inputs(self, batch, t=None):
        bs = batch.batch_size
        max_t = batch.max_seq_length if t is None else 1
        ts = slice(None) if t is None else slice(t, t + 1)
        inputs = [batch["state"][:, ts].unsqueeze(2).repeat(1, 1, self.n_agents, 1)]
        if self.args.obs_individual_obs:
            inputs.append(batch["obs"][:, ts])
        ids = th.eye(self.n_agents, device=batch.device).unsqueeze(0).unsqueeze(0)
        inputs.append(ids.expand(bs, max_t, -1, -1))
        return th.cat(inputs, dim=-1)


class DecentralVCritic(nn.Module):
    """V of the agent's own observation, always with ``obs_individual_obs``; reads nothing of the state."""

    output_type = "v"

    def __init__(self, scheme, args):
        super().__init__()
        if not args.obs_individual_obs:
            raise NotImplementedError("needs obs_individual_obs")
        self.net = nn.Sequential(
            nn.Linear(scheme["obs"]["vshape"], args.hidden_dim), nn.Tanh(), nn.Linear(args.hidden_dim, 1)
        )

    def forward(self, batch, t=None):
        return self.net(batch["obs"] if t is None else batch["obs"][:, t : t + 1])


class QCritic(CentralVCritic):
    def __init__(self, scheme, args):
        super().__init__(scheme, args)
        self.output_type = "q"


class COMACritic(nn.Module):
    """Q of the actions, whose size it looks up in the scheme."""

    def __init__(self, scheme, args):
        super().__init__()
        self.output_type = "q"
        self.fc1 = nn.Linear(scheme["state"]["vshape"] + scheme["actions_onehot"]["vshape"][0], args.n_actions)


class CentralVCriticNS(nn.Module):
    """A network for each agent, in a plain list, as in EPyMARL's critics without sharing."""

    def __init__(self, scheme, args):
        super().__init__()
        self.output_type = "v"
        self.critics = [nn.Linear(scheme["state"]["vshape"], 1) for _ in range(args.n_agents)]

    def forward(self, batch, t=None):
        return th.stack([critic(batch["state"]) for critic in self.critics], dim=2)

    def parameters(self):
        return [parameter for critic in self.critics for parameter in critic.parameters()]


class HalfHiddenCritic(CentralVCriticNS):
    def __init__(self, scheme, args):
        super().__init__(scheme, args)
        self.first = self.critics[0]


class FlatCritic(CentralVCritic):
    """Forgets the dimension of its single output."""

    def forward(self, batch, t=None):
        return super().forward(batch, t).squeeze(-1)


class LastActionCritic(CentralVCritic):
    """Reads what the batch does not have."""

    def forward(self, batch, t=None):
        return super().forward(batch, t) + batch["actions_onehot"].sum()


NOT_A_CLASS = CentralVCritic.__name__
