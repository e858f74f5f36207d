"""Interface of a data set for training and evaluation.

A ``Split`` gives batches. Three rules make runs repeatable: the same ``shuffle`` number gives
the same batches in the same order, a sample has the same ``index`` in every order, and several
processes together get the data of one process, because each gets a piece of the same batches.
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

    ``theirs``: the images of the same samples for the teacher, if they differ.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    theirs: Tensor | None = None


@dataclass(frozen=True)
class Bad:
    """A sample or shard that could not be read, and the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"`{self.name}`: {self.reason}"


@dataclass(frozen=True)
class Part:
    """Piece ``number`` of ``of`` of every batch, for one of several processes that train together."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"part {self.number} of {self.of}: expected 0 to {self.of - 1}")

    def piece(self, index: Tensor) -> Tensor:
        """The consecutive piece of ``index``; empty for some processes if there are fewer samples than processes."""
        return torch.tensor_split(index, self.of)[self.number]


WHOLE = Part()


class Split(Protocol):
    """One half of a data set."""

    @property
    def fixed(self) -> bool:
        """True if a sample has the same pixels every time, so that a teacher's logits may be stored."""
        ...

    @property
    def labelled(self) -> bool:
        """True if the samples have labels; otherwise all labels are -1."""
        ...

    @property
    def bad(self) -> tuple[Bad, ...]:
        """The samples that could not be read so far, and were replaced or left out."""
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
        it is the only one. The first ``start`` batches are skipped without reading them, so that a
        training that was stopped in the middle of an epoch can resume there. Of each batch only the piece
        of ``part`` is given; it may be empty, and then an empty batch is yielded, so that every process
        counts the same steps.
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
    """Sample numbers of each batch, by the rules of ``Split.batches``; ``mix``: function for the split's own order."""
    if length == 0:
        return []  # `split` would give one empty piece
    if shuffle is None:
        pieces = list(torch.arange(length).split(size))
    else:
        order = mix(shuffle) if mix else uniform(length, shuffle)
        pieces = list(order.split(size))
        if len(pieces) > 1 and len(pieces[-1]) < size:
            pieces.pop()
    return [part.piece(index) for index in pieces[start:]]


def uniform(length: int, shuffle: int) -> Tensor:
    """Uniformly random order of all sample numbers."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(shuffle))
