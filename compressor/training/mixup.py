"""Mixup and CutMix: mix two pictures, and their labels in the same proportion.

The pictures are mixed after the augmentation of each, and before the teacher's forward pass: its logits for
the mixture are more useful than the mixed labels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compressor.recipe.schedule import Schedule

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, labels) -> mixed images, shares of every class (N, classes)."""


def mixing_for(schedule: Schedule, classes: int) -> Mixing | None:
    """The mixing that the schedule sets, or None; it draws from torch's global generator."""
    if not schedule.mixup and not schedule.cutmix:
        return None
    # Imported here: torchvision takes a second to import, which a training without mixing need not wait for.
    from torchvision.transforms import v2

    mixings: list[Mixing] = []
    if schedule.mixup:
        mixings.append(v2.MixUp(alpha=schedule.mixup, num_classes=classes))
    if schedule.cutmix:
        mixings.append(v2.CutMix(alpha=schedule.cutmix, num_classes=classes))
    return mixings[0] if len(mixings) == 1 else v2.RandomChoice(mixings)
