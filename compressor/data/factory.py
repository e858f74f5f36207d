"""Data that the user's own code provides: ``package.module:factory``, called without arguments.

It returns a ``Data``, or a pair (train, test) of torch map-style data sets: ``len(it)`` and
``it[i] -> (image, label)``, the image a float tensor (C, H, W), normalised already. Pictures may be
augmented at random by the data set itself; torch's generator is seeded for each of them, other
generators are the author's business. Left out: iterable data sets, which cannot repeat a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressor.data.split import Batch, Data, batch_indices
from compressor.errors import CompressError, UsageError
from compressor.imports import load_attribute

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

_EXPECTED = "expected a compressor.data.Data, or a pair (train, test) of map-style data sets"


@dataclass(frozen=True)
class SampleSplit:
    """Samples that are fetched one by one from the user's own data set."""

    where: str
    samples: Any
    shape: tuple[int, int, int]
    classes: int

    @property
    def fixed(self) -> bool:
        """Never: whether the data set augments cannot be seen from outside."""
        return False

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        for index in batch_indices(len(self), size, shuffle):
            with torch.random.fork_rng(devices=[]):
                samples = [self._sample(number, shuffle or 0) for number in index.tolist()]
            images, labels = zip(*samples, strict=True)
            yield Batch(torch.stack(images), torch.tensor(labels), index)

    def _sample(self, number: int, shuffle: int) -> tuple[Tensor, int]:
        torch.default_generator.manual_seed((shuffle * len(self) + number) % 2**63)
        image, label = _checked_sample(self.samples, number, self.where)
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


def load_factory(wanted: DataRecipe, seed: int) -> Data:
    """What the factory gives, checked."""
    del seed  # the factory's own code decides what is random in it
    for option in ("size", "mean", "std"):
        if getattr(wanted, option):
            raise UsageError(f"`{option}` does not reach data from a factory", "set it in the factory itself")
    factory = load_attribute(wanted.name, "data set")
    try:
        given = factory()
    except Exception as error:
        raise CompressError(
            f"data set `{wanted.name}` failed: {type(error).__name__}: {error}",
            "it is called without arguments",
        ) from error
    if isinstance(given, Data):
        return given
    if not isinstance(given, Sequence) or len(given) != 2:
        raise CompressError(f"data set `{wanted.name}` gave {_described(given)}, {_EXPECTED}")
    return data_from(*given, name=wanted.name, classes=wanted.classes)


def data_from(train: Any, test: Any, *, name: str = "data", classes: int | None = None) -> Data:
    """Two map-style data sets as ``Data``; ``classes`` if the training half has no attribute of that name."""
    names = _classes(train, name, classes)
    halves = [
        _checked_half(half, f"`{name}` ({which})", len(names))
        for which, half in (("train", train), ("test", test))
    ]
    if halves[0].shape != halves[1].shape:
        raise CompressError(
            f"data set `{name}` has images of shape {halves[0].shape} to train on, {halves[1].shape} to test"
        )
    return Data(name, names, halves[0].shape, *halves)


def _checked_half(half: Any, where: str, classes: int) -> SampleSplit:
    if not hasattr(half, "__len__") or not hasattr(half, "__getitem__"):
        raise CompressError(
            f"{where} is {_described(half)}, expected len() and an index: a map-style data set"
        )
    if len(half) == 0:
        raise CompressError(f"{where} is empty")
    image, _ = _checked_sample(half, 0, where)
    channels, height, width = image.shape
    return SampleSplit(where, half, (channels, height, width), classes)


def _checked_sample(samples: Any, number: int, where: str) -> tuple[Tensor, int]:
    try:
        sample = samples[number]
    except Exception as error:
        raise CompressError(f"sample {number} of {where} failed: {type(error).__name__}: {error}") from error
    if not isinstance(sample, Sequence) or len(sample) != 2:
        raise CompressError(f"sample {number} of {where} is {_described(sample)}, expected (image, label)")
    image, label = sample
    if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
        raise CompressError(
            f"the image of sample {number} of {where} is {_described(image)}, "
            "expected a float tensor (channels, height, width)"
        )
    try:
        return image.float(), int(label)
    except (TypeError, ValueError) as error:
        raise CompressError(
            f"the label of sample {number} of {where} is {_described(label)}, expected an integer"
        ) from error


def _classes(train: Any, name: str, classes: int | None) -> tuple[str, ...]:
    """The names that the data set gives, as torchvision's do; else numbers."""
    named = getattr(train, "classes", None)
    if isinstance(named, Sequence) and named:
        return tuple(str(each) for each in named)
    if classes is None:
        raise UsageError(
            f"data set `{name}` does not say how many classes it has",
            "--classes N, or give its training half an attribute `classes`",
        )
    return tuple(str(number) for number in range(classes))


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"a {type(value).__name__}{length}"
