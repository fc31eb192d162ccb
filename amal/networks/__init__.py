"""Networks: policies, critics and mixers, which configurations name from here, and world models."""

from amal.networks.critics import (
    AttentionCritic,
    Critic,
    DualPathCritic,
    EPyMARLCritic,
    FiLMCritic,
    IPPOCritic,
    MAPPOCritic,
)
from amal.networks.entities import EntityCritic, EntityPolicy
from amal.networks.mixers import Mixer, QMIXMixer, VDNMixer
from amal.networks.policies import GRUPolicy, MLPPolicy, Policy

__all__ = [
    "AttentionCritic",
    "Critic",
    "DualPathCritic",
    "EPyMARLCritic",
    "EntityCritic",
    "EntityPolicy",
    "FiLMCritic",
    "GRUPolicy",
    "IPPOCritic",
    "MAPPOCritic",
    "MLPPolicy",
    "Mixer",
    "Policy",
    "QMIXMixer",
    "VDNMixer",
]
