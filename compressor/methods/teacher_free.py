"""Distillation without a larger network: a virtual teacher, or the student as its own teacher (Yuan et al. 2020).

The part of a teacher's effect that these reach is regularisation; they are the stronger baselines.
"""

from __future__ import annotations

from dataclasses import replace

from compressor.methods.start import begun
from compressor.methods.task import Task, Training, taught
from compressor.training import Guide
from compressor.training.label_teachers import VirtualTeacher

CORRECT = 0.99
"""The virtual teacher's probability of the label."""
TEMPERATURE, WEIGHT = 20.0, 0.1
"""Temperature and weight of its loss, as in the paper."""
ITSELF = "itself"
"""The name of the first training, whose student teaches the second."""


def teacher_free(task: Task) -> tuple[Training, ...]:
    """Train by a virtual teacher that is always right and spreads the rest evenly: labels softened by a temperature."""
    start = begun(task)
    guide = Guide("virtual", VirtualTeacher(len(task.data.classes), CORRECT), by_labels=True)
    asked = task.distilling.schedule
    schedule = replace(asked, teacher_loss="kd", temperature=TEMPERATURE, teacher_weight=WEIGHT)
    trained = taught(task, task.student, start, schedule, (guide,))
    return (Training(task.student, guide.name, trained, start),)


def teacher_free_self(task: Task) -> tuple[Training, ...]:
    """Train the student by labels; it then teaches the same student from the start."""
    start = begun(task)
    schedule = task.distilling.schedule
    itself = replace(task.student, name=ITSELF)
    first = taught(task, itself, start, schedule)
    guide = Guide(ITSELF, first.network, first.accuracy)
    second = taught(task, task.student, start, schedule, (guide,))
    return Training(itself, "none", first, start), Training(task.student, ITSELF, second, start)
