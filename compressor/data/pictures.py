"""Split of stored pictures, decoded on demand by a few threads.

A training sample is a random piece of the picture, mirrored with probability ½; a test sample is its
middle. A few batches are decoded ahead of the one in use.

A picture that cannot be decoded is recorded. In training the next readable one in stored order replaces
it, with its own label, under the number of the bad one: the replacement depends only on that number, so
a training that resumes in the middle of an epoch gets the same pictures. In a test it is left out. Not
implemented: rotation by EXIF. torchvision's folders ignore it too, so a teacher trained on those gets
the same pictures.
"""

from __future__ import annotations

import math
import os
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

AHEAD = 2
"""Batches decoded ahead of the one in use: one would leave the threads idle while a long batch is awaited."""

SIZE = 224
TEST_SHARE = 0.2
_MIDDLE = 224 / 256  # the used share of the shorter side, as in the tests of published networks

Box = tuple[float, float, float, float]


class Stored(Protocol):
    """A store of pictures, numbered from 0."""

    def name(self, number: int) -> str:
        """Name by which a user can find this picture."""
        ...

    def file(self, number: int) -> Path | IO[bytes]:
        """The file to decode."""
        ...


@dataclass(frozen=True)
class Look:
    """Conversion of a picture into pixels; with ``augmented`` each shuffle shows another piece of it."""

    size: int
    scaling: Scaling
    augmented: bool = False
    policy: Policy | None = None

    def pixels(self, picture: Image.Image, random: Random | None) -> Tensor:
        """Pixels (H, W, C) uint8, grey if the scaling has one channel; the middle without ``random``."""
        box = _middle(picture.size) if random is None else _random_piece(picture.size, random)
        mode = "L" if len(self.scaling.mean) == 1 else "RGB"
        image = picture.convert(mode).resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        if random is not None and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random is not None and self.policy is not None:
            image = varied(self.policy, image, random)
        return pixels_of(image)


def training_look(size: int, scaling: Scaling, augment: str) -> Look:
    """The look of training pictures for this setting of ``augment``."""
    return Look(size, scaling, augment != NONE, policy_named(augment))


def decoding_threads() -> int:
    """Number of threads that decode: the CPUs of this process that torch does not use, from 2 to 8.

    What a picture looks like depends on its number and the shuffle alone, not on the thread that decodes it.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(2, cpus - torch.get_num_threads()))


@dataclass(frozen=True)
class PictureSplit:
    """Pictures and labels; with ``replacing``, as in training, another picture replaces a bad one."""

    stored: Stored
    labels: Tensor
    look: Look
    damage: Damage
    replacing: bool
    labelled: bool = True
    mix: Mix | None = None

    @property
    def fixed(self) -> bool:
        """True if a sample has the same pixels every time."""
        return not self.look.augmented

    @property
    def scaling(self) -> Scaling:
        """Scaling of the pixels for the network."""
        return self.look.scaling

    @property
    def bad(self) -> tuple[Bad, ...]:
        """The pictures that could not be decoded so far."""
        return self.damage.found

    @property
    def plain(self) -> PictureSplit:
        """The same pictures without augmentation: the middle of each."""
        return replace(self, look=replace(self.look, augmented=False, policy=None))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        read = partial(self._read, shuffle=shuffle if self.look.augmented else None)
        pool = ThreadPoolExecutor(decoding_threads())
        try:
            # While one batch is in use, the threads decode the next ones.
            coming: deque[tuple[Tensor, Iterator[_Sample | None]]] = deque()
            for index in batch_indices(len(self), size, shuffle, start, part, self.mix):
                coming.append((index, pool.map(read, index.tolist())))
                if len(coming) > AHEAD:
                    yield self._batch(*coming.popleft())
            while coming:
                yield self._batch(*coming.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, index: Tensor, read: Iterator[_Sample | None]) -> Batch:
        samples = list(read)
        places = [place for place, sample in enumerate(samples) if sample is not None]
        good = [sample for sample in samples if sample is not None]
        shape = (0, self.look.size, self.look.size, len(self.scaling.mean))
        pixels = torch.stack([sample.pixels for sample in good]) if good else torch.empty(shape)
        images = pixels.permute(0, 3, 1, 2).contiguous()
        labels = self.labels[torch.tensor([sample.number for sample in good], dtype=torch.int64)]
        return Batch(self.scaling(images), labels, index[places])

    def _read(self, number: int, shuffle: int | None) -> _Sample | None:
        """This sample, or its replacement, or None."""
        for candidate in self._candidates(number):
            # Seeded by ``number``, not by the candidate: a replacement then differs from its own sample.
            random = None if shuffle is None else Random(f"{shuffle}/{number}")
            try:
                with Image.open(self.stored.file(candidate)) as picture:
                    return _Sample(candidate, self.look.pixels(picture, random))
            except Exception as error:  # Pillow's readers raise many kinds of errors for damaged files
                self.damage.add(self.stored.name(candidate), _reason(error))
        if self.replacing:
            raise CompressError(f"none of the {len(self)} training pictures can be read")
        return None

    def _candidates(self, number: int) -> Iterator[int]:
        steps = len(self) if self.replacing else 1
        return ((number + step) % len(self) for step in range(steps))


@dataclass(frozen=True)
class _Sample:
    number: int
    pixels: Tensor


def _reason(error: Exception) -> str:
    text = str(error) or "unreadable"
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def _middle(size: tuple[int, int]) -> Box:
    """Box (left, top, right, bottom) of the square in the middle."""
    width, height = size
    side = min(width, height) * _MIDDLE
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _random_piece(size: tuple[int, int], random: Random) -> Box:
    """Random box of 8 to 100 % of the area, with a shape from 3:4 to 4:3, as in the usual training on ImageNet."""
    width, height = size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return (left, top, left + across, top + down)
    return _middle(size)
