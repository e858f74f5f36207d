"""InDistill (Sarridis et al. 2022): a warm-up of one layer after another, shallow to deep, then the main training.

In the warm-up the student imitates the outputs of its teacher's layers in as many channels as it has itself, by mean
squared error alone; layer l (from 0) gets ``FIRST`` + 1 + l epochs. The epochs of the warm-up are taken from those of
the schedule; the main training has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from compressor.methods.layerwise.layer_pairs import compared_layers
from compressor.methods.layerwise.teacher_channels import Kept, kept_by_plan, largest_filters
from compressor.methods.start import Start, begun
from compressor.methods.task import Task, Training, taught
from compressor.recipe.schedule import NO_ANSWERS
from compressor.training import Trained
from compressor.training.layer_outputs import Places

WARMED = "warm-up"
"""The name of the training of one layer after another."""

FIRST = 2
"""a in the a + 1 + l epochs of layer l."""


def indistill(task: Task) -> tuple[Training, ...]:
    """The warm-up, for at most half of the epochs, and the main training."""
    asked, guide = task.distilling, task.guide
    start = begun(task)
    student = start.network
    pairs = compared_layers(task, student, guide.network)
    epochs = curriculum(len(pairs), asked.schedule.epochs // 2)
    trainings: list[Training] = []
    if sum(epochs):
        schedule = replace(
            asked.part_of(sum(epochs)),
            annealing="constant",
            teacher_loss=NO_ANSWERS,
            teacher_weight=1.0,
            test_every=sum(epochs),
        )
        shown = replace(guide, kept=shown_channels(task, student, pairs))
        stage = replace(task.student, name=WARMED)
        trained = taught(task, stage, start, schedule, (shown,), only=warm_up_losses(pairs, epochs))
        trainings.append(Training(stage, guide.name, _noted(trained, epochs, asked.schedule.epochs), start))
        start = Start(trained.network)
    left = asked.part_of(asked.schedule.epochs - sum(epochs))
    trained = taught(task, task.student, start, left, (guide,))
    return (*trainings, Training(task.student, guide.name, trained, start))


def shown_channels(task: Task, student: nn.Module, pairs: Sequence[tuple[str, str]]) -> dict[str, Kept]:
    """The teacher's channels to imitate, by layer: those that the student kept, or as many as it has."""
    teacher = task.guide.network
    image = torch.zeros(1, *task.data.shape, device=next(teacher.parameters()).device)
    if task.given is None and teacher is task.teacher:
        return {theirs: kept_by_plan(teacher, theirs, task.student.plan, image) for _, theirs in pairs}
    widths = Places(student, image.to(next(student.parameters()).device), "student").shapes
    return {theirs: largest_filters(teacher, theirs, widths[mine][0], image) for mine, theirs in pairs}


def _noted(trained: Trained, epochs: Sequence[int], whole: int) -> Trained:
    """Add a warning where layers had fewer epochs than in the paper."""
    asked = sum(lengths(len(epochs)))
    if sum(epochs) == asked:
        return trained
    told = ", ".join(map(str, epochs))
    note = (
        f"its {len(epochs)} layers have {told} epochs instead of {asked} together: "
        f"half of all {whole} epochs are kept for the main training"
    )
    return replace(trained, warnings=(*trained.warnings, note))


def lengths(layers: int) -> list[int]:
    """The epochs of each layer, as in the paper."""
    return [FIRST + 1 + layer for layer in range(layers)]


def curriculum(layers: int, most: int) -> tuple[int, ...]:
    """The epochs of each layer, at most ``most`` together: if that is too few, each gets its share of them."""
    asked = lengths(layers)
    whole = sum(asked)
    if whole <= most:
        return tuple(asked)
    ends = [round(most * sum(asked[:done]) / whole) for done in range(layers + 1)]
    return tuple(stop - start for start, stop in pairwise(ends))


def warm_up_losses(pairs: Sequence[tuple[str, str]], epochs: Sequence[int]) -> tuple[str, ...]:
    """The losses of one layer at a time, as lines of ``distil.losses``."""
    ends = [sum(epochs[:done]) for done in range(len(epochs) + 1)]
    return tuple(
        f"same-channels=1, layers={mine}/{theirs}, start={start}, until={stop}"
        for (mine, theirs), (start, stop) in zip(pairs, pairwise(ends), strict=True)
        if stop > start
    )
