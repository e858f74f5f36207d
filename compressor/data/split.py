"""What training and evaluation need of a data set, and nothing else.

A ``Split`` gives batches. Two rules make runs repeatable: the same ``shuffle`` number gives
the same batches in the same order, and a sample keeps its ``index`` whatever the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised images (N, C, H, W) float32, labels (N,) int64, sample numbers (N,) int64."""

    images: Tensor
    labels: Tensor
    index: Tensor


class Split(Protocol):
    """One half of a data set."""

    @property
    def fixed(self) -> bool:
        """Whether a sample shows the same pixels every time, so that a teacher's answer may be kept."""
        ...

    def __len__(self) -> int: ...

    def batches(self, size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches of ``size``.

        Without ``shuffle``: every sample once, in stored order, unaugmented. With it: the order (and
        the augmentation) that this number seeds; a last batch that is not full is left out, unless
        it is the only one.
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


def batch_indices(length: int, size: int, shuffle: int | None) -> list[Tensor]:
    """The sample numbers of each batch, by the rules of ``Split.batches``."""
    if shuffle is None:
        return list(torch.arange(length).split(size))
    pieces = list(torch.randperm(length, generator=torch.Generator().manual_seed(shuffle)).split(size))
    return pieces[:-1] if len(pieces) > 1 and len(pieces[-1]) < size else pieces
