"""What learners remember: single transitions, real and imagined apart, or whole episodes."""

from amal.replay.asymmetric import AsymmetricReplayBuffer
from amal.replay.episodes import EpisodeReplay, ReplayedEpisodes
from amal.replay.experience import REAL, Experience, ProvenanceError, RealExperience, RealSequences

__all__ = [
    "REAL",
    "AsymmetricReplayBuffer",
    "EpisodeReplay",
    "Experience",
    "ProvenanceError",
    "RealExperience",
    "RealSequences",
    "ReplayedEpisodes",
]
