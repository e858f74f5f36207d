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
    alphas = schedule.alphas()
    if not alphas:
        return None
    # Imported here: torchvision takes a second to import, which a training without mixing need not wait for.
    from torchvision.transforms import v2

    kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    mixings: list[Mixing] = [kinds[name](alpha=alpha, num_classes=classes) for name, alpha in alphas.items()]
    return mixings[0] if len(mixings) == 1 else v2.RandomChoice(mixings)
