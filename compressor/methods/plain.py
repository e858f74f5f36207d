"""Baselines of the cascade: the same student, trained in simpler ways; each is a name for ``--method``."""

from __future__ import annotations

from dataclasses import replace

from compressor.methods.start import Start, begun, cut_and_repaired
from compressor.methods.task import Task, Training, taught
from compressor.recipe.repair import Repairing
from compressor.training import Guide, Schedule, Trained, accuracy, choose_precision

SMOOTHING = 0.1
"""Share of the labels that `label-smoothing` spreads over all classes: as in Müller et al. 2019."""
ITSELF_LOSSES = ("drg", "dsr")


def repair(task: Task) -> tuple[Training, ...]:
    """Fit the cut student's layers to the teacher's, without training."""
    return _untaught(task, begun(task))


def cut_only(task: Task) -> tuple[Training, ...]:
    """Cut the student and measure its running statistics again, without repair or training."""
    return _untaught(task, begun(replace(task, repairing=Repairing(0))))


def finetune(task: Task) -> tuple[Training, ...]:
    """Train by labels alone, with the schedule's own smoothing."""
    return _alone(task, task.distilling.schedule)


def label_smoothing(task: Task) -> tuple[Training, ...]:
    """Train by smoothed labels alone: the part of a teacher's effect that is regularisation (Müller et al. 2019)."""
    return _alone(task, replace(task.distilling.schedule, label_smoothing=SMOOTHING))


def itself(task: Task) -> tuple[Training, ...]:
    """Train by labels, a head in the student's middle, and its own logits of the batch before (Xu et al. 2023)."""
    start = begun(task)
    trained = taught(task, task.student, start, task.distilling.schedule, more=ITSELF_LOSSES)
    return (Training(task.student, "itself", trained, start),)


def kd(task: Task) -> tuple[Training, ...]:
    """The teacher teaches the student, without assistants (Hinton et al. 2015)."""
    start = begun(task)
    trained = taught(task, task.student, start, task.distilling.schedule, (task.guide,))
    return (Training(task.student, task.guide.name, trained, start),)


def steps(task: Task) -> tuple[Training, ...]:
    """Train the networks one after another: each is cut from the trained larger one, which then teaches it."""
    return _in_steps(task, all_at_the_end=False)


def multi_teacher(task: Task) -> tuple[Training, ...]:
    """The same as `steps`, but all larger networks teach the student at once."""
    return _in_steps(task, all_at_the_end=True)


def _in_steps(task: Task, *, all_at_the_end: bool) -> tuple[Training, ...]:
    network, guides, done = task.teacher, [task.guide], None
    trainings: list[Training] = []
    for stage in task.path:
        plan = stage.plan if done is None else stage.plan.within(done)
        start = cut_and_repaired(network, plan, task, stage.name)
        schedule = task.distilling.schedule_of(stage.name)
        together = all_at_the_end and stage is task.student and len(guides) > 1
        teaching = tuple(guides) if together else (guides[-1],)
        trained = taught(task, stage, start, schedule, teaching, at_once=together)
        told = " + ".join(guide.name for guide in teaching)
        trainings.append(Training(stage, told, trained, start))
        network, done = trained.network, stage.plan
        guides.append(Guide(stage.name, trained.network, trained.accuracy))
    return tuple(trainings)


def _alone(task: Task, schedule: Schedule) -> tuple[Training, ...]:
    start = begun(task)
    return (Training(task.student, "none", taught(task, task.student, start, schedule), start),)


def _untaught(task: Task, start: Start) -> tuple[Training, ...]:
    right = start.accuracy
    if right is None:
        right = accuracy(start.network, task.data.test, device=task.device)
    precision = choose_precision("fp32", task.device)
    return (Training(task.student, "none", Trained(start.network, (), None, precision, before=right), start),)
