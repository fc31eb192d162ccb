"""Lightning callbacks: evaluation, checkpoints, and what a run tells and leaves behind."""

from callbacks.checkpoint import RunCheckpoint
from callbacks.diagnosis import Diagnosis
from callbacks.evaluation import Evaluation
from callbacks.evolution import Evolution
from callbacks.final_test import FinalTest
from callbacks.pictures import Pictures
from callbacks.progress import TrainingProgress
from callbacks.telemetry import Telemetry
from callbacks.tracking import Tracking

__all__ = [
    "Diagnosis",
    "Evaluation",
    "Evolution",
    "FinalTest",
    "Pictures",
    "RunCheckpoint",
    "Telemetry",
    "Tracking",
    "TrainingProgress",
]
