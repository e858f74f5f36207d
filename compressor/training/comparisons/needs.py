"""Validate extra losses against networks, data and schedule, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import UsageError, unknown_name
from compressor.recipe.loss_terms import Term
from compressor.recipe.schedule import Schedule
from compressor.training.comparisons.comparison_table import COMPARISONS
from compressor.training.distributed.world import here
from compressor.training.layer_outputs import Places
from compressor.training.losses import LOSSES

LEAST_BATCH = 3
"""Smallest batch for losses on relations: two images have one relation, and its share of all is always 1."""


def check_terms(terms: Sequence[Term], data: Data, schedule: Schedule, *, taught: bool) -> None:
    """Raise an error for losses, or settings of them, that do not work with this data and this schedule."""
    for term in terms:
        if term.name not in COMPARISONS:
            raise unknown_name("loss", term.name, COMPARISONS)
        loss, comparison = LOSSES[term.name], COMPARISONS[term.name]
        if not taught and not loss.alone:
            raise UsageError(
                f"loss `{term.name}` compares with a teacher, and there is none",
                "choose a method with a teacher, or remove the loss from distil.losses",
            )
        known = comparison.settings | {
            name
            for name, parameter in signature(loss.function).parameters.items()
            if _is_setting(parameter.annotation)
        }
        for setting in term.settings:
            if setting not in known:
                raise unknown_name(f"setting of loss `{term.name}`", setting, sorted(known) or ["(none)"])
        if loss.labels and not data.train.labelled:
            raise UsageError(f"loss `{term.name}` needs labels, and the pictures of `{data.name}` have none")
        if loss.labels and schedule.mix:
            raise UsageError(
                f"loss `{term.name}` needs one label for each image, and `mix` mixes labels",
                "leave distil.schedule.mix empty, or remove the loss",
            )
        if comparison.turns and data.shape[1] != data.shape[2]:
            height, width = data.shape[1:]
            raise UsageError(
                f"loss `{term.name}` turns images, which must be square, and these have {height} × {width} pixels"
            )
        if loss.whole_batch or comparison.remembers:
            _need_whole_batches(term.name, data, schedule)


def check_layers(terms: Sequence[Term], student: nn.Module, teacher: nn.Module | None, image: Tensor) -> None:
    """Raise an error for layers that the networks do not have."""
    if not terms:
        return
    student_layers = Places(student, image.to(next(student.parameters()).device), "student")
    teacher_layers = (
        None if teacher is None else Places(teacher, image.to(next(teacher.parameters()).device), "teacher")
    )
    for term in terms:
        COMPARISONS[term.name].look(term, student_layers, teacher_layers)


def _is_setting(annotation: object) -> bool:
    return annotation in ("float", "str")


def _need_whole_batches(name: str, data: Data, schedule: Schedule) -> None:
    batch = min(schedule.batch, len(data.train))
    if batch < LEAST_BATCH:
        raise UsageError(
            f"loss `{name}` compares the images of a batch, and a batch has {batch}, expected at least {LEAST_BATCH}",
            "set distil.schedule.batch higher; 64 or more is better",
        )
    if here().size > 1:
        raise UsageError(
            f"loss `{name}` compares the images of a whole batch, and each of {here().size} processes has only a part",
            "start one process, or use a loss that compares one image at a time: kd, fitnet or attention",
        )
