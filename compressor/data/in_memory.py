"""Split with all images in memory, as one uint8 tensor.

For small sets this is the fastest loader: a batch is one indexing operation. The augmentation is
one function of a batch and its random numbers. These are drawn for the whole set before the first
batch, so that the augmentation of a sample depends only on the shuffle number, not on the batch
that contains it. A policy, if there is one, is applied afterwards, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.data.augment import Policy, varied_pixels
from compressor.data.scaling import Scaling
from compressor.data.split import WHOLE, Bad, Batch, Part, batch_indices

DRAWS = 3
"""Number of random numbers for the augmentation of one sample."""

Augment = Callable[[Tensor, Tensor], Tensor]
"""(uint8 images (N, C, H, W), numbers in [0, 1) (N, DRAWS)) -> images of the same shape."""


@dataclass(frozen=True)
class TensorSplit:
    """Images (N, C, H, W) uint8 and labels (N,) int64.

    With a ``side`` the images of a batch are resized to it: the whole set at the input size of a large
    network would not fit in memory (CIFAR at 224 pixels: 7.5 GB).
    """

    images: Tensor
    labels: Tensor
    scaling: Scaling
    augment: Augment | None = None
    side: int | None = None
    policy: Policy | None = None
    labelled: ClassVar = True
    bad: ClassVar[tuple[Bad, ...]] = ()  # all images were read before

    @property
    def fixed(self) -> bool:
        """True if a sample has the same pixels every time."""
        return self.augment is None and self.policy is None

    @property
    def plain(self) -> TensorSplit:
        """The same images without augmentation."""
        return replace(self, augment=None, policy=None)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        random = torch.Generator().manual_seed(shuffle or 0)
        draws = torch.rand(len(self), DRAWS, generator=random)
        for index in batch_indices(len(self), size, shuffle, start, part):
            images = self.images[index]
            if shuffle is not None and self.augment is not None:
                images = self.augment(images, draws[index])
            if shuffle is not None and self.policy is not None:
                images = self._by_policy(self.policy, images, index, shuffle)
            yield self._batch(index, images)

    def _by_policy(self, policy: Policy, images: Tensor, index: Tensor, shuffle: int) -> Tensor:
        numbered = zip(images, index.tolist(), strict=True)
        changed = [varied_pixels(policy, image, Random(f"{shuffle}/{number}")) for image, number in numbered]
        return torch.stack(changed) if changed else images

    def _batch(self, index: Tensor, images: Tensor) -> Batch:
        scaled = self.scaling(images)
        if self.side is not None and scaled.shape[-2:] != (self.side, self.side):
            scaled = F.interpolate(scaled, size=(self.side, self.side), mode="bilinear", antialias=True)
        return Batch(scaled, self.labels[index], index)


def crop_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Usual augmentation for CIFAR: shift by up to 4 pixels over black, mirror with probability ½."""
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = ((draws[:, axis] * 9).long().view(-1, 1) for axis in (0, 1))
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(draws[:, 2:] < 0.5, columns, columns.flip(1)) + left
    rows = torch.arange(height) + top
    sample = torch.arange(count).view(-1, 1, 1)
    # Advanced indices on both sides of a slice put the slice last: (N, H, W, C).
    return padded[sample, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
