"""Teachers of a training, and their logits for a batch at the lowest cost.

Where a sample has the same pixels every time, the teacher computes its logits once for all samples;
later steps look them up, which saves a forward pass of the larger network in every step. Not
implemented: logits stored on disk, because computing them costs about as much as one epoch of evaluation.
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
from compressor.training.distributed.world import here
from compressor.training.evaluate import at_least_one
from compressor.training.layer_outputs import Channels
from compressor.training.precision import Arithmetic

Answers = Callable[[Tensor, Tensor], Tensor]
"""(images, their index) -> the teacher's logits."""


@dataclass(frozen=True)
class Guide:
    """A named teacher network. A student with a higher ``accuracy`` is taught by the next guide.

    ``kept``: for the loss ``same-channels``, the channels that a narrower student is compared with, by layer; all of a
    layer not named. ``by_labels``: its input is labels, not images.
    """

    name: str
    network: nn.Module
    accuracy: float | None = None
    by_labels: bool = False
    kept: Channels = field(default_factory=dict)


def answering(network: nn.Module, arithmetic: Arithmetic) -> nn.Module:
    """A frozen copy of a teacher in eval mode, on the device of its student."""
    return arithmetic.copy(network).eval().requires_grad_(False)


def answers_of(
    teacher: nn.Module,
    split: Split,
    schedule: Schedule,
    arithmetic: Arithmetic,
    note: Callable[[str], None],
) -> Answers:
    """A function that gives the logits of ``teacher``, which is on the device already (see `answering`).

    The teacher computes in the student's precision whether its logits are stored or not, so that storing changes the
    cost of a training and not its result (up to rounding: other batches). ``note`` receives warnings.
    """
    live = not split.fixed or bool(schedule.mix)
    # Stored logits are computed once: compiling would cost more than it saves.
    compiling = live and schedule.compile
    forward = frozen(teacher, arithmetic, note) if compiling else teacher

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        with arithmetic.autocast():
            return forward(images).float()

    if live:
        return lambda images, index: ask(images)

    world, logits, numbers = here(), [], []
    for batch in split.batches(schedule.batch, part=world.part):
        logits.append(ask(arithmetic.images(at_least_one(batch.images)))[: len(batch.index)])
        numbers.append(batch.index)
    answers, places = torch.cat(logits), torch.cat(numbers).to(arithmetic.device)
    inside = (places >= 0) & (places < len(split))
    times = torch.bincount(places[inside], minlength=len(split))
    outside = world.total((~inside).sum())
    if int(outside) or not bool((world.total(times) == 1).all()):
        raise CompressError(
            f"the sample numbers of the training data are wrong, expected 0 to {len(split) - 1}, each once"
        )
    # Each process fills the rows of its own samples; the sum over processes is the whole table.
    table = world.total(
        torch.zeros(len(split), answers.shape[1], device=answers.device).index_copy_(0, places, answers)
    )
    if not table.isfinite().all():
        raise CompressError("the teacher's logits are not all finite", "check the teacher's weights")
    return lambda images, index: table[index.to(arithmetic.device)]
