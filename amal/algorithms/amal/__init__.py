"""AMAL and its parts."""

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.amal.auxiliaries import Auxiliaries
from amal.algorithms.amal.imagination import Imagination
from amal.algorithms.amal.information import InformationBonus
from amal.algorithms.amal.logit_auxiliaries import LogitAuxiliaries
from amal.algorithms.amal.off_policy import OffPolicyReplay
from amal.algorithms.amal.world_model_learning import WorldModelLearning

__all__ = [
    "AMAL",
    "Auxiliaries",
    "Imagination",
    "InformationBonus",
    "LogitAuxiliaries",
    "OffPolicyReplay",
    "WorldModelLearning",
]
