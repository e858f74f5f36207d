"""Scale pixel bytes to the value range on which a network was trained.

A teacher that was trained elsewhere has its own mean and standard deviation, so a user may replace
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


def chosen_scaling(usual: Scaling, mean: tuple[float, ...], std: tuple[float, ...]) -> Scaling:
    """``usual``, with the user's mean and standard deviation where set."""
    scaling = Scaling(mean or usual.mean, std or usual.std)
    for name, values in (("mean", scaling.mean), ("std", scaling.std)):
        if len(values) != len(usual.mean):
            raise UsageError(
                f"`{name}` has {len(values)} values, the images have {len(usual.mean)} channels",
                f"usual for this data: {_listed(getattr(usual, name))}",
            )
        if not all(math.isfinite(value) for value in values):
            raise UsageError(f"`{name}` is {_listed(values)}, expected finite numbers")
    if min(scaling.std) <= 0:
        raise UsageError(f"`std` is {_listed(scaling.std)}, expected numbers above 0")
    return scaling


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
