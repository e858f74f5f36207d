"""From bytes to the numbers that a network was trained on.

A teacher that was trained elsewhere brings its own mean and deviation, so a user may replace
those of a data set. Left out: anything but one shift and one factor a channel.
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
        """uint8 images (N, C, H, W) as float32: the mean taken off, the deviation divided out."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)


IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def chosen_scaling(usual: Scaling, mean: tuple[float, ...], std: tuple[float, ...]) -> Scaling:
    """``usual``, with what the user gave in its place."""
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
