"""Top-1 accuracy of a network, or of any other function from images to logits.

The same function measures a student and its exported file. Not implemented: top-5 and per-class
accuracy, because nothing in the program uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compressor.data.split import Split
from compressor.errors import CompressError
from compressor.training.distributed.world import here

CPU = torch.device("cpu")


@torch.no_grad()
def accuracy(
    predict: Callable[[Tensor], Tensor],
    split: Split,
    *,
    device: torch.device = CPU,
    batch: int = 256,
) -> float:
    """The share, in [0, 1], of samples whose largest logit is at the label (top-1).

    ``predict`` is a network or any function from images on ``device`` to logits (N, classes).
    A network runs in eval mode and returns to its earlier mode. With several processes each takes a part of a batch.
    """
    world = here()
    counts = torch.zeros(2, dtype=torch.int64, device=device)  # correct answers, all samples
    with in_eval_mode(predict):
        for samples in split.batches(batch * world.size, part=world.part):
            answers = predict(at_least_one(samples.images).to(device))[: len(samples.labels)].argmax(dim=1)
            counts[0] += (answers == samples.labels.to(answers.device)).sum()
            counts[1] += len(samples.labels)
    right, total = world.total(counts).tolist()
    if total == 0:
        raise CompressError("cannot measure the accuracy: the split is empty")
    return right / total


def at_least_one(images: Tensor) -> Tensor:
    """The images, or one black image if a process got none: not every network accepts an empty batch."""
    return images if len(images) else images.new_zeros(1, *images.shape[1:])


@contextmanager
def in_eval_mode(predict: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put a network into eval mode while the block runs, then back; leave any other function unchanged."""
    # Module by module, because `.train()` afterwards would also switch parts that the caller put into eval mode.
    modules = predict.modules() if isinstance(predict, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
