"""Samples from a map-style data set of the user's own code, each fetched by its number and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressor.data.split import WHOLE, Bad, Batch, Part, batch_indices
from compressor.errors import CompressError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Expected:
    """Expected shape and classes of every sample of a half; ``where`` names the half in errors."""

    where: str
    shape: Shape
    classes: int

    def checked(self, sample: Any, number: int) -> tuple[Tensor, int]:
        """Image and label of the sample, or an error if they are not as expected."""
        image, label = checked_sample(sample, number, self.where)
        if image.shape != self.shape:
            raise CompressError(
                f"sample {number} of {self.where} has shape {tuple(image.shape)}, "
                f"expected that of the first, {self.shape}"
            )
        if not 0 <= label < self.classes:
            raise CompressError(
                f"sample {number} of {self.where} has label {label}, expected 0 to {self.classes - 1}"
            )
        return image, label

    def batch(self, samples: Sequence[tuple[Tensor, int]], index: Tensor) -> Batch:
        """A batch of these samples, of which there may be none."""
        images = torch.stack([image for image, _ in samples]) if samples else torch.empty(0, *self.shape)
        return Batch(images, torch.tensor([label for _, label in samples], dtype=torch.int64), index)


@dataclass(frozen=True)
class SampleSplit:
    """Split over the user's map-style data set."""

    samples: Any
    expected: Expected

    fixed: ClassVar = False  # the data set may augment; that cannot be detected from outside
    labelled: ClassVar = True
    bad: ClassVar[tuple[Bad, ...]] = ()  # a sample that the user's code cannot read is an error

    @property
    def plain(self) -> SampleSplit:
        """The split itself: augmentation in the user's code cannot be switched off from outside."""
        return self

    def __len__(self) -> int:
        return len(self.samples)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        for index in batch_indices(len(self), size, shuffle, start, part):
            with torch.random.fork_rng(devices=[]):
                samples = [self._sample(number, shuffle or 0) for number in index.tolist()]
            yield self.expected.batch(samples, index)

    def _sample(self, number: int, shuffle: int) -> tuple[Tensor, int]:
        seed_for(number, shuffle, len(self))
        return self.expected.checked(fetched(self.samples, number, self.expected.where), number)


def seed_for(number: int, shuffle: int, length: int) -> None:
    """Seed torch's generator, which the user's code may draw from, for one sample in one pass."""
    torch.default_generator.manual_seed((shuffle * length + number) % 2**63)


def fetched(samples: Any, number: int, where: str) -> Any:
    """The sample with this number, unchecked."""
    try:
        return samples[number]
    except Exception as error:
        raise CompressError(f"sample {number} of {where} failed: {type(error).__name__}: {error}") from error


def checked_sample(sample: Any, number: int, where: str) -> tuple[Tensor, int]:
    """Image and integer label of the sample, or an error if it is anything else."""
    if not isinstance(sample, Sequence) or len(sample) != 2:
        raise CompressError(f"sample {number} of {where} is {described(sample)}, expected (image, label)")
    image, label = sample
    if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
        raise CompressError(
            f"the image of sample {number} of {where} is {described(image)}, "
            "expected a float tensor (channels, height, width)"
        )
    try:
        return image.float(), int(label)
    except (TypeError, ValueError) as error:
        raise CompressError(
            f"the label of sample {number} of {where} is {described(label)}, expected an integer"
        ) from error


def described(value: Any) -> str:
    """Short description of a value, for errors."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"a {type(value).__name__}{length}"
