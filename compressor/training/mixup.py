"""Mixup and CutMix: two pictures in one, and labels in the same proportion.

The pictures are mixed after everything that is done to each alone, and before the teacher is asked: what it says of
the mixture is worth more than the mixed labels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compressor.recipe.schedule import Schedule

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, labels) -> mixed images, shares of every class (N, classes)."""


def mixing_for(schedule: Schedule, classes: int) -> Mixing | None:
    """What the schedule asks for; it draws from torch's own generator."""
    if not schedule.mixup and not schedule.cutmix:
        return None
    # torchvision takes a second to import, which nobody should wait for who mixes nothing.
    from torchvision.transforms import v2

    ways: list[Mixing] = []
    if schedule.mixup:
        ways.append(v2.MixUp(alpha=schedule.mixup, num_classes=classes))
    if schedule.cutmix:
        ways.append(v2.CutMix(alpha=schedule.cutmix, num_classes=classes))
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)
