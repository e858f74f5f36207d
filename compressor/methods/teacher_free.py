"""Without a larger network: a teacher that is made up, and the student as its own (Yuan et al. 2020).

What these reach of a teacher's help is regularisation; they are the harder controls.
"""

from __future__ import annotations

from dataclasses import replace

from compressor.methods.start import begun
from compressor.methods.task import Task, Training, taught
from compressor.training import Guide
from compressor.training.label_teachers import VirtualTeacher

CORRECT = 0.99
"""How sure the virtual teacher is of the label."""
TEMPERATURE, WEIGHT = 20.0, 0.1
"""How it is followed, by the paper."""
ITSELF = "itself"
"""The name of the training whose student teaches the next."""


def teacher_free(task: Task) -> tuple[Training, ...]:
    """A made-up teacher that is always right and spreads the rest evenly: labels, softened by a temperature."""
    start = begun(task)
    guide = Guide("virtual", VirtualTeacher(len(task.data.classes), CORRECT), by_labels=True)
    asked = task.distilling.schedule
    schedule = replace(asked, teacher_loss="kd", temperature=TEMPERATURE, teacher_weight=WEIGHT)
    trained = taught(task, task.student, start, schedule, (guide,))
    return (Training(task.student, guide.name, trained, start),)


def teacher_free_self(task: Task) -> tuple[Training, ...]:
    """The student is trained by labels, and teaches the same student from the start."""
    start = begun(task)
    schedule = task.distilling.schedule
    itself = replace(task.student, name=ITSELF)
    first = taught(task, itself, start, schedule)
    guide = Guide(ITSELF, first.network, first.accuracy)
    second = taught(task, task.student, start, schedule, (guide,))
    return Training(itself, "none", first, start), Training(task.student, ITSELF, second, start)
