"""What the teacher says about a batch, at the lowest price.

Where a sample shows the same pixels every time, the teacher is asked once for all samples and
its logits are looked up afterwards, which saves a forward pass of the larger network in every
step. Left out: answers kept on disk; asking costs about as much as one epoch of evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressor.data.split import Split
from compressor.distill.precision import Precision, autocasting, memory_layout
from compressor.errors import CompressError

Answers = Callable[[Tensor, Tensor], Tensor]  # (images, their index) -> the teacher's logits


def answers_of(
    teacher: nn.Module, split: Split, batch: int, precision: Precision, device: torch.device
) -> Answers:
    """A function that gives the logits of ``teacher``, which is on ``device`` and in eval mode.

    The teacher computes in the student's precision either way, so that whether the pixels are
    fixed changes the price of a training and not its result (up to rounding: other batches).
    """
    layout = memory_layout(device)

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        with autocasting(precision, device):
            return teacher(images).float()

    if not split.fixed:
        return lambda images, index: ask(images)

    asked, numbers = [], []
    for each in split.batches(batch):
        asked.append(ask(each.images.to(device, memory_format=layout)))
        numbers.append(each.index)
    numbered, order = torch.cat(numbers).sort()
    if not torch.equal(numbered.cpu(), torch.arange(len(split))):
        raise CompressError(f"the samples are not numbered from 0 to {len(split) - 1}, each once")
    table = torch.cat(asked)[order.to(device)]
    if not table.isfinite().all():
        raise CompressError("the teacher's answers are not all finite", "check the teacher's weights")
    return lambda images, index: table[index.to(device)]
