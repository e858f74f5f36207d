"""Teach a network: from labels alone, or from a teacher's answers as well.

Knows networks and data, nothing of how a network came to be this small. The names are loaded
on first use, because a recipe holds a `Schedule` and reading a recipe must not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.distill.evaluate import accuracy
    from compressor.distill.lesson import Lesson, Taught
    from compressor.distill.loop import follow, train
    from compressor.distill.losses import LOSSES
    from compressor.distill.precision import Arithmetic, Precision, choose_precision
    from compressor.distill.record import Epoch, Progress, Trained
    from compressor.distill.schedule import Schedule
    from compressor.distill.statistics import reestimate
    from compressor.distill.teacher import Guide

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

_HOME = {
    "LOSSES": "losses",
    "Arithmetic": "precision",
    "Epoch": "record",
    "Guide": "teacher",
    "Lesson": "lesson",
    "Precision": "precision",
    "Progress": "record",
    "Schedule": "schedule",
    "Taught": "lesson",
    "Trained": "record",
    "accuracy": "evaluate",
    "choose_precision": "precision",
    "follow": "loop",
    "reestimate": "statistics",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
