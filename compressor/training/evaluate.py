"""How often a network, or anything else that answers like one, is right.

A session of an exported file is judged by the very function that judged the student. Left
out: top-5 and per-class numbers, which nobody decides on yet.
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
    A network is asked in eval mode and left in the mode it had. Several processes ask it for a piece each.
    """
    world = here()
    counted = torch.zeros(2, dtype=torch.int64, device=device)  # right, and seen
    with in_eval_mode(predict):
        for each in split.batches(batch * world.size, part=world.part):
            answers = predict(at_least_one(each.images).to(device))[: len(each.labels)].argmax(dim=1)
            counted[0] += (answers == each.labels.to(answers.device)).sum()
            counted[1] += len(each.labels)
    right, seen = world.total(counted).tolist()
    if seen == 0:
        raise CompressError("no accuracy can be given: the split is empty")
    return right / seen


def at_least_one(images: Tensor) -> Tensor:
    """The images, or a black one where a process got none: not every network answers to nothing."""
    return images if len(images) else images.new_zeros(1, *images.shape[1:])


@contextmanager
def in_eval_mode(predict: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A network in eval mode while the block runs, then in the mode it had; anything else as it is."""
    # Flags one by one, because `.train()` afterwards would also wake the parts a caller had frozen.
    modules = predict.modules() if isinstance(predict, nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
