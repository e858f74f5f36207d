"""What could not be learnt: refused in one line before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data.split import Data
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.recipe.loss_terms import terms_of
from compressor.recipe.schedule import NO_ANSWERS, Schedule
from compressor.training.comparisons import check_terms
from compressor.training.distributed.world import here
from compressor.training.losses import LOSSES, TEACHER_LOSSES


def check_sense(
    data: Data, schedule: Schedule, *, taught: bool, losses: Sequence[str] = (), hinted: bool = False
) -> None:
    """Refuse, before anything is computed, what could not be learnt."""
    check_terms(terms_of(losses), data, schedule, taught=taught)
    following = LOSSES.get(schedule.teacher_loss) if schedule.teacher_loss in TEACHER_LOSSES else None
    if following is None and schedule.teacher_loss != NO_ANSWERS:
        raise unknown_name("teacher_loss", schedule.teacher_loss, (*TEACHER_LOSSES, NO_ANSWERS))
    if following is None and taught and schedule.teacher_weight == 1 and not hinted:
        _need_losses(schedule, losses)
    if taught and following and following.labels and (schedule.mixup or schedule.cutmix):
        raise UsageError(
            f"teacher_loss `{schedule.teacher_loss}` needs one label for each image, and mixup and cutmix mix them",
            "kd, dist and comparative need none",
        )
    if taught and following and following.whole_batch and here().size > 1:
        raise UsageError(
            f"teacher_loss `{schedule.teacher_loss}` compares the images of a whole batch, "
            f"and {here().size} processes have a piece each",
            "kd, dkd and ofa look at one image at a time",
        )
    if len(data.train) == 0:
        raise CompressError(f"nothing to learn from: the training half of `{data.name}` is empty")
    told = taught and schedule.teacher_weight == 1 and not (following and following.labels)
    if not data.train.labelled and not told:
        raise UsageError(
            f"the pictures of `{data.name}` have no labels, and the loss needs them",
            "with a teacher, set distil.schedule.teacher_weight to 1: it alone is followed then, by kd, dist or "
            "comparative",
        )


def _need_losses(schedule: Schedule, losses: Sequence[str]) -> None:
    """Neither answers nor labels count: in every epoch some loss beside them must."""
    terms = [term for term in terms_of(losses) if term.weight != 0]
    empty = next((e for e in range(schedule.epochs) if not any(t.share_at(e) for t in terms)), None)
    if empty is not None:
        raise UsageError(
            "teacher_loss is `none` and teacher_weight 1, and "
            + (f"no loss counts in epoch {empty}" if terms else "there is no loss to learn by"),
            "add distil.losses, as in pkt, or give labels a share: a teacher_weight below 1",
        )


def check_enough(data: Data, schedule: Schedule, processes: int) -> None:
    """Refuse, before anything is computed, batches of which a process would get nothing."""
    batch = min(schedule.batch, len(data.train))
    if batch < processes:
        raise UsageError(
            f"a batch has {batch} images, and {processes} processes need one each",
            "start fewer processes, or use a larger distil.schedule.batch",
        )
