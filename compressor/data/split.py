"""What training and evaluation need of a data set, and nothing else.

A ``Split`` gives batches. Three rules make runs repeatable: the same ``shuffle`` number gives
the same batches in the same order, a sample keeps its ``index`` whatever the order, and several
processes together see what one would see, because each gets a piece of the very same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised images (N, C, H, W) float32, labels (N,) int64, sample numbers (N,) int64.

    ``theirs``: the same samples as a teacher is to see them, where that differs.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    theirs: Tensor | None = None


@dataclass(frozen=True)
class Bad:
    """Something that could not be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"`{self.name}`: {self.reason}"


@dataclass(frozen=True)
class Part:
    """Which piece of every batch this process gets, of several that train together."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"part {self.number} of {self.of}: expected 0 to {self.of - 1}")

    def piece(self, index: Tensor) -> Tensor:
        """Its consecutive piece; empty if there are fewer samples than processes."""
        return torch.tensor_split(index, self.of)[self.number]


WHOLE = Part()


class Split(Protocol):
    """One half of a data set."""

    @property
    def fixed(self) -> bool:
        """Whether a sample shows the same pixels every time, so that a teacher's answer may be kept."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the labels mean something; without, each of them is -1."""
        ...

    @property
    def bad(self) -> tuple[Bad, ...]:
        """What could not be read so far, and was replaced or left out."""
        ...

    @property
    def plain(self) -> Split:
        """The same samples without augmentation, as far as that can be switched off from outside."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``.

        Without ``shuffle``: every sample once, in stored order, unaugmented. With it: the order (and
        the augmentation) that this number seeds; a last batch that is not full is left out, unless
        it is the only one. The first ``start`` batches are passed over, and nothing of them is read: a
        training that was stopped in the middle of an epoch goes on there. Of each batch only the
        ``part``'s piece is given, which may be empty: then an empty batch comes all the same, so that
        every process counts the same steps.
        """
        ...


@dataclass(frozen=True)
class Data:
    """A data set for classification: its name, its classes, the shape of an image, its halves."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    test: Split


Mix = Callable[[int], Tensor]
"""The order of all samples that a shuffle number seeds."""


def batch_indices(
    length: int,
    size: int,
    shuffle: int | None,
    start: int = 0,
    part: Part = WHOLE,
    mix: Mix | None = None,
) -> list[Tensor]:
    """The sample numbers of each batch, by the rules of ``Split.batches``; ``mix``: an order of the split's own."""
    if length == 0:
        return []  # torch would give one piece, of nothing
    if shuffle is None:
        pieces = list(torch.arange(length).split(size))
    else:
        order = mix(shuffle) if mix else uniform(length, shuffle)
        pieces = list(order.split(size))
        if len(pieces) > 1 and len(pieces[-1]) < size:
            pieces.pop()
    return [part.piece(index) for index in pieces[start:]]


def uniform(length: int, shuffle: int) -> Tensor:
    """Any order, each as likely as any other."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(shuffle))
