"""Scale pixel bytes to the value range on which a network was trained.

A teacher that was trained elsewhere has its own means and standard deviations, so a user may replace
those of a data set. Not supported: anything but one shift and one factor per channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import UsageError


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each channel, where black is 0 and white is 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Scaled float32 images, (x / 255 − mean) / std, from uint8 images (N, C, H, W)."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)


IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def chosen_scaling(usual: Scaling, normalise: tuple[tuple[float, ...], ...]) -> Scaling:
    """The scaling with the user's means and standard deviations; without these two lists ``usual``."""
    if not normalise:
        return usual
    shown = [list(values) for values in normalise]
    if len(normalise) != 2 or {len(values) for values in normalise} != {len(usual.mean)}:
        raise UsageError(
            f"data.normalise is {shown}, expected two lists, each with a value for each of {len(usual.mean)} channels",
            f"[[means], [standard deviations]], for this data usually {[list(usual.mean), list(usual.std)]}",
        )
    scaling = Scaling(*normalise)
    if not all(math.isfinite(value) for values in normalise for value in values):
        raise UsageError(f"data.normalise is {shown}, expected finite numbers")
    if min(scaling.std) <= 0:
        raise UsageError(f"data.normalise is {shown}, expected standard deviations above 0")
    return scaling
