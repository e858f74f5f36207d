"""Who teaches, and what a teacher says about a batch at the lowest price.

Where a sample shows the same pixels every time, the teacher is asked once for all samples and
its logits are looked up afterwards, which saves a forward pass of the larger network in every
step. Left out: answers kept on disk; asking costs about as much as one epoch of evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.data.split import Split
from compressor.errors import CompressError
from compressor.recipe.schedule import Schedule
from compressor.training.compiling import frozen
from compressor.training.distributed.sharded_teacher import sharded
from compressor.training.distributed.world import here
from compressor.training.evaluate import at_least_one
from compressor.training.hints import Channels
from compressor.training.precision import Arithmetic

Answers = Callable[[Tensor, Tensor], Tensor]
"""(images, their index) -> the teacher's logits."""


@dataclass(frozen=True)
class Guide:
    """A network that teaches, by name; ``accuracy``: what a student must beat to be taught by the next one.

    ``channels``: those of the uncut network that its layers have, where hints compare them. ``kept``: the channels of
    its own that ``same-channels`` shows a narrower student, by layer; of a layer that is not named all.
    ``shared_out``: whether each process holds a part of it while it teaches. ``by_labels``: it is asked with labels
    instead of images.
    """

    name: str
    network: nn.Module
    accuracy: float | None = None
    channels: Channels = field(default_factory=dict)
    shared_out: bool = False
    by_labels: bool = False
    kept: Channels = field(default_factory=dict)


def answering(network: nn.Module, arithmetic: Arithmetic, shared_out: bool = False) -> nn.Module:
    """A copy of a teacher that only answers, where its student computes."""
    if shared_out:
        return sharded(network, here())
    return arithmetic.copy(network).eval().requires_grad_(False)


def answers_of(
    teacher: nn.Module,
    split: Split,
    schedule: Schedule,
    arithmetic: Arithmetic,
    note: Callable[[str], None],
) -> Answers:
    """A function that gives the logits of ``teacher``, which computes there already.

    The teacher computes in the student's precision whether its answers are kept or not, so that this changes the
    price of a training and not its result (up to rounding: other batches). ``note`` is told what did not go as asked.
    """
    live = not split.fixed or schedule.mixup > 0 or schedule.cutmix > 0
    # Answers that are kept are asked for once: compiling would cost more than it saves.
    # Nor one that is shared out: it is never whole anywhere.
    compiling = live and schedule.compile and not here().spread
    forward = frozen(teacher, arithmetic, note) if compiling else teacher

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        with arithmetic.autocast():
            return forward(images).float()

    if live:
        return lambda images, index: ask(images)

    world, asked, numbers = here(), [], []
    for each in split.batches(schedule.batch, part=world.part):
        asked.append(ask(arithmetic.images(at_least_one(each.images)))[: len(each.index)])
        numbers.append(each.index)
    answers, places = torch.cat(asked), torch.cat(numbers).to(arithmetic.device)
    inside = (places >= 0) & (places < len(split))
    times = torch.bincount(places[inside], minlength=len(split))
    outside = world.total((~inside).sum())
    if int(outside) or not bool((world.total(times) == 1).all()):
        raise CompressError(f"the samples are not numbered from 0 to {len(split) - 1}, each once")
    table = world.total(
        torch.zeros(len(split), answers.shape[1], device=answers.device).index_copy_(0, places, answers)
    )
    if not table.isfinite().all():
        raise CompressError("the teacher's answers are not all finite", "check the teacher's weights")
    return lambda images, index: table[index.to(arithmetic.device)]
