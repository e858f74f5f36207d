"""Validate the settings of a training before any work."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data.split import Data
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.recipe.loss_terms import terms_of
from compressor.recipe.schedule import NO_ANSWERS, Schedule
from compressor.training.comparisons import check_terms
from compressor.training.distributed.world import here
from compressor.training.losses import LOSSES, TEACHER_LOSSES


def check_sense(data: Data, schedule: Schedule, *, taught: bool, losses: Sequence[str] = ()) -> None:
    """Raise an error for a combination of data and settings that cannot be trained, before any work."""
    check_terms(terms_of(losses), data, schedule, taught=taught)
    teacher_loss = LOSSES.get(schedule.teacher_loss) if schedule.teacher_loss in TEACHER_LOSSES else None
    if teacher_loss is None and schedule.teacher_loss != NO_ANSWERS:
        raise unknown_name("teacher_loss", schedule.teacher_loss, (*TEACHER_LOSSES, NO_ANSWERS))
    if teacher_loss is None and taught and schedule.teacher_weight == 1:
        _need_losses(schedule, losses)
    if taught and teacher_loss and teacher_loss.labels and schedule.mix:
        raise UsageError(
            f"teacher_loss `{schedule.teacher_loss}` needs one label for each image, and `mix` mixes labels",
            "use kd, dist or comparative, which need no labels, or leave distil.schedule.mix empty",
        )
    if taught and teacher_loss and teacher_loss.whole_batch and here().size > 1:
        raise UsageError(
            f"teacher_loss `{schedule.teacher_loss}` compares the images of a whole batch, "
            f"and each of the {here().size} processes has only a part of it",
            "use kd, dkd or ofa, which compare one image at a time, or one process",
        )
    if len(data.train) == 0:
        raise CompressError(f"the training half of `{data.name}` is empty, expected at least 1 image")
    no_labels_needed = taught and schedule.teacher_weight == 1 and not (teacher_loss and teacher_loss.labels)
    if not data.train.labelled and not no_labels_needed:
        raise UsageError(
            f"the pictures of `{data.name}` have no labels, and the loss needs them",
            "with a teacher, set distil.schedule.teacher_weight to 1 and teacher_loss to kd, dist or comparative: "
            "then no labels are used",
        )


def _need_losses(schedule: Schedule, losses: Sequence[str]) -> None:
    """Raise an error if no extra loss counts in some epoch; called when neither labels nor teacher logits do."""
    terms = [term for term in terms_of(losses) if term.weight != 0]
    empty = next((e for e in range(schedule.epochs) if not any(t.share_at(e) for t in terms)), None)
    if empty is not None:
        raise UsageError(
            "teacher_loss is `none` and teacher_weight 1, and "
            + (
                f"no loss counts in epoch {empty}"
                if terms
                else "distil.losses has no loss with a weight other than 0"
            ),
            "add a loss to distil.losses, for example pkt, or set teacher_weight below 1 to use the labels",
        )


def check_enough(data: Data, schedule: Schedule, processes: int) -> None:
    """Raise an error, before any work, if a batch has fewer images than there are processes."""
    batch = min(schedule.batch, len(data.train))
    if batch < processes:
        raise UsageError(
            f"a batch has {batch} images, expected at least {processes}, one for each process",
            "start fewer processes, or use a larger distil.schedule.batch",
        )
