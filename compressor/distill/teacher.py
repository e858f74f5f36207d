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
from compressor.distill.compiling import frozen
from compressor.distill.hints import Channels
from compressor.distill.precision import Arithmetic
from compressor.distill.schedule import Schedule
from compressor.errors import CompressError

Answers = Callable[[Tensor, Tensor], Tensor]
"""(images, their index) -> the teacher's logits."""


@dataclass(frozen=True)
class Guide:
    """A network that teaches, by name; ``accuracy``: what a student must beat to be taught by the next one.

    ``channels``: those of the uncut network that its layers have, where hints compare them.
    """

    name: str
    network: nn.Module
    accuracy: float | None = None
    channels: Channels = field(default_factory=dict)


def answering(network: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """A copy of a teacher that only answers, where its student computes."""
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
    forward = frozen(teacher, arithmetic, note) if live and schedule.compile else teacher

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        with arithmetic.autocast():
            return forward(images).float()

    if live:
        return lambda images, index: ask(images)

    asked, numbers = [], []
    for each in split.batches(schedule.batch):
        asked.append(ask(arithmetic.images(each.images)))
        numbers.append(each.index)
    numbered, order = torch.cat(numbers).sort()
    if not torch.equal(numbered.cpu(), torch.arange(len(split))):
        raise CompressError(f"the samples are not numbered from 0 to {len(split) - 1}, each once")
    table = torch.cat(asked)[order.to(arithmetic.device)]
    if not table.isfinite().all():
        raise CompressError("the teacher's answers are not all finite", "check the teacher's weights")
    return lambda images, index: table[index.to(arithmetic.device)]
