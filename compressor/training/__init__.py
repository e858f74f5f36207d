"""Teach a network: from labels alone, or from a teacher's outputs as well.

This package knows networks and data, and nothing of pruning.
"""

from compressor.recipe.schedule import Schedule
from compressor.training.batchnorm_statistics import reestimate
from compressor.training.evaluate import accuracy
from compressor.training.guides import Guide
from compressor.training.history import Epoch, Progress, Trained
from compressor.training.lesson import Lesson, Taught
from compressor.training.loop import follow, train
from compressor.training.losses import LOSSES
from compressor.training.precision import Arithmetic, Precision, choose_precision

__all__ = [
    "LOSSES",
    "Arithmetic",
    "Epoch",
    "Guide",
    "Lesson",
    "Precision",
    "Progress",
    "Schedule",
    "Taught",
    "Trained",
    "accuracy",
    "choose_precision",
    "follow",
    "reestimate",
    "train",
]
