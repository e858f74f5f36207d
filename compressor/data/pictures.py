"""Pictures that are decoded when they are needed, by a few threads, wherever they lie.

For training each is a random piece of the picture, mirrored half the time; for the test it is the
middle. A few batches are decoded ahead of the one that is used.

A picture that cannot be decoded is noted. In training the next one in stored order that can be takes
its place, label and all, and keeps its number: which one that is depends on the number alone, so a
training that goes on in the middle of an epoch, where other pictures were never looked at, sees the
same. In a test it is left out. Left out here: rotation by EXIF, which torchvision's folders leave out
too, so that a teacher trained on those sees the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import IO, Protocol

import torch
from PIL import Image
from torch import Tensor

from compressor.data.augment import NONE, Policy, pixels_of, policy_named, varied
from compressor.data.scaling import Scaling
from compressor.data.split import WHOLE, Bad, Batch, Mix, Part, batch_indices
from compressor.data.unreadable import Damage
from compressor.errors import CompressError

SIZE = 224
TEST_SHARE = 0.2
_MIDDLE = 224 / 256  # the share of the shorter side that is looked at, as published networks are tested

Box = tuple[float, float, float, float]


class Stored(Protocol):
    """Pictures somewhere, numbered from 0."""

    def name(self, number: int) -> str:
        """What a user would look for to find this picture."""
        ...

    def file(self, number: int) -> Path | IO[bytes]:
        """What is to be decoded."""
        ...


@dataclass(frozen=True)
class Look:
    """How a picture becomes pixels: ``augmented`` shows another piece of it at each shuffle."""

    size: int
    scaling: Scaling
    augmented: bool = False
    policy: Policy | None = None

    def pixels(self, picture: Image.Image, random: Random | None) -> Tensor:
        """(H, W, C) uint8; grey if the scaling has one channel."""
        box = _middle(picture.size) if random is None else _random_piece(picture.size, random)
        mode = "L" if len(self.scaling.mean) == 1 else "RGB"
        image = picture.convert(mode).resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if random is not None and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random is not None and self.policy is not None:
            image = varied(self.policy, image, random)
        return pixels_of(image)


def training_look(size: int, scaling: Scaling, augment: str) -> Look:
    """What a training sees by this name of augmentation."""
    return Look(size, scaling, augment != NONE, policy_named(augment))


@dataclass(frozen=True)
class Reading:
    """How many threads decode, and how many batches ahead."""

    workers: int = 2
    ahead: int = 2


@dataclass(frozen=True)
class PictureSplit:
    """Pictures and labels; ``replacing`` halves, those for training, have another in place of a bad one."""

    stored: Stored
    labels: Tensor
    look: Look
    damage: Damage
    replacing: bool
    reading: Reading = Reading()
    labelled: bool = True
    mix: Mix | None = None

    @property
    def fixed(self) -> bool:
        """Whether a sample shows the same pixels every time."""
        return not self.look.augmented

    @property
    def scaling(self) -> Scaling:
        """From bytes to what the network sees."""
        return self.look.scaling

    @property
    def bad(self) -> tuple[Bad, ...]:
        """What could not be decoded so far."""
        return self.damage.found

    @property
    def plain(self) -> PictureSplit:
        """The same pictures, the middle of each."""
        return replace(self, look=replace(self.look, augmented=False, policy=None))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        read = partial(self._read, shuffle=shuffle if self.look.augmented else None)
        pool = ThreadPoolExecutor(max(1, self.reading.workers))
        try:
            # While one batch is used, the next ones are already being decoded.
            coming: deque[tuple[Tensor, Iterator[_Sample | None]]] = deque()
            for index in batch_indices(len(self), size, shuffle, start, part, self.mix):
                coming.append((index, pool.map(read, index.tolist())))
                if len(coming) > self.reading.ahead:
                    yield self._batch(*coming.popleft())
            while coming:
                yield self._batch(*coming.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, index: Tensor, read: Iterator[_Sample | None]) -> Batch:
        samples = list(read)
        there = [place for place, sample in enumerate(samples) if sample is not None]
        good = [sample for sample in samples if sample is not None]
        shape = (0, self.look.size, self.look.size, len(self.scaling.mean))
        pixels = torch.stack([each.pixels for each in good]) if good else torch.empty(shape)
        images = pixels.permute(0, 3, 1, 2).contiguous()
        labels = self.labels[torch.tensor([each.number for each in good], dtype=torch.int64)]
        return Batch(self.scaling(images), labels, index[there])

    def _read(self, number: int, shuffle: int | None) -> _Sample | None:
        """This sample; or the one in its place, or none."""
        for candidate in self._candidates(number):
            # By the number asked for: a picture that stands in for another is not seen twice alike.
            random = None if shuffle is None else Random(f"{shuffle}/{number}")
            try:
                with Image.open(self.stored.file(candidate)) as picture:
                    return _Sample(candidate, self.look.pixels(picture, random))
            except Exception as error:  # what a damaged file makes Pillow's readers raise is no closed list
                self.damage.add("picture", self.stored.name(candidate), _reason(error))
        if self.replacing:
            raise CompressError(f"none of the {len(self)} pictures to train on can be read")
        return None

    def _candidates(self, number: int) -> Iterator[int]:
        steps = len(self) if self.replacing else 1
        return ((number + step) % len(self) for step in range(steps))


@dataclass(frozen=True)
class _Sample:
    number: int
    pixels: Tensor


def _reason(error: Exception) -> str:
    told = str(error) or "unreadable"
    return told if isinstance(error, OSError) else f"{type(error).__name__}: {told}"


def _middle(size: tuple[int, int]) -> Box:
    """Left, top, right and bottom of the square in the middle."""
    width, height = size
    side = min(width, height) * _MIDDLE
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _random_piece(size: tuple[int, int], random: Random) -> Box:
    """A piece of 8 to 100 % of the area, between 3:4 and 4:3, as ImageNet's networks are trained."""
    width, height = size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return (left, top, left + across, top + down)
    return _middle(size)
