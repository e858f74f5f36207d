"""What cannot be learnt by losses beside, refused in one line before anything is computed."""

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
"""Two images have one relation, and as a share of all it is 1."""


def check_terms(terms: Sequence[Term], data: Data, schedule: Schedule, *, taught: bool) -> None:
    """Refuse losses, and settings of them, that this data and this schedule cannot be learnt by."""
    for term in terms:
        if term.name not in COMPARISONS:
            raise unknown_name("loss", term.name, COMPARISONS)
        loss, comparison = LOSSES[term.name], COMPARISONS[term.name]
        if not taught and not loss.alone:
            raise UsageError(
                f"loss `{term.name}` compares with a teacher, and there is none",
                "choose a method with a teacher, or leave distil.losses out",
            )
        takes = comparison.settings | {
            name for name, each in signature(loss.function).parameters.items() if _is_setting(each.annotation)
        }
        for setting in term.settings:
            if setting not in takes:
                raise unknown_name(f"setting of loss `{term.name}`", setting, sorted(takes) or ["(none)"])
        if loss.labels and not data.train.labelled:
            raise UsageError(f"loss `{term.name}` needs labels, and the pictures of `{data.name}` have none")
        if loss.labels and (schedule.mixup or schedule.cutmix):
            raise UsageError(
                f"loss `{term.name}` needs one label for each image, and mixup and cutmix mix them"
            )
        if comparison.turns and data.shape[1] != data.shape[2]:
            height, width = data.shape[1:]
            raise UsageError(
                f"loss `{term.name}` turns square images, and these have {height} × {width} pixels"
            )
        if loss.whole_batch or comparison.remembers:
            _need_whole_batches(term.name, data, schedule)


def check_layers(terms: Sequence[Term], student: nn.Module, teacher: nn.Module | None, image: Tensor) -> None:
    """Refuse layers that the networks do not have."""
    if not terms:
        return
    mine = Places(student, image.to(next(student.parameters()).device), "student")
    theirs = (
        None if teacher is None else Places(teacher, image.to(next(teacher.parameters()).device), "teacher")
    )
    for term in terms:
        COMPARISONS[term.name].look(term, mine, theirs)


def _is_setting(annotation: object) -> bool:
    return annotation in ("float", "str")


def _need_whole_batches(name: str, data: Data, schedule: Schedule) -> None:
    batch = min(schedule.batch, len(data.train))
    if batch < LEAST_BATCH:
        raise UsageError(
            f"loss `{name}` compares the images of a batch, and a batch has {batch}",
            f"use at least {LEAST_BATCH}, and rather 64",
        )
    if schedule.micro_batch is not None and schedule.micro_batch < batch:
        raise UsageError(
            f"loss `{name}` compares the images of a whole batch, and micro_batch is {schedule.micro_batch} of {batch}",
            "leave micro_batch out, or use a smaller batch",
        )
    if here().size > 1:
        raise UsageError(
            f"loss `{name}` compares the images of a whole batch, and {here().size} processes have a piece each",
            "use it in one process, or a loss that looks at one image at a time, as kd, fitnet and attention do",
        )
