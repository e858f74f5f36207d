"""Base class of the comparisons between a student and its teacher, with their inputs and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.recipe.loss_terms import Term
from compressor.recipe.schedule import Schedule
from compressor.training.layer_outputs import Channels, Places
from compressor.training.losses import LOSSES
from compressor.training.precision import Arithmetic

Pair = tuple[str, str]
"""A layer of the student and one of its teacher; the latter is empty if the teacher's layers are not used."""

TURNS = 4
"""Number of versions of a turned image: by 0, 90, 180 and 270 degrees."""


@dataclass(frozen=True)
class Both:
    """A student and one of its teachers (None: it is compared with itself), with data and schedule.

    ``student``, ``teacher``: their layers. ``network``: the teacher. ``kept``: channels of the teacher's layers that
    ``same-channels`` compares.
    """

    student: Places
    teacher: Places | None
    network: nn.Module | None
    data: Data
    arithmetic: Arithmetic
    schedule: Schedule
    kept: Channels

    @property
    def batch(self) -> int:
        """Number of images in a batch."""
        return min(self.schedule.batch, len(self.data.train))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    def shapes(self, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Output shapes of the two layers, for one image."""
        teacher_shapes = {} if self.teacher is None else self.teacher.shapes
        return self.student.shapes[pair[0]], teacher_shapes[pair[1]]


@dataclass(frozen=True)
class Seen:
    """Forward passes of student and teacher on a part of a batch.

    ``said``, ``told``: logits of the student and of its teacher. ``mine``, ``theirs``: layer outputs of the student
    and of its teacher. With ``ways`` above 1 all but the labels are repeated: first for the images as they are, then
    for the turned ones. ``networks``: student and teacher, for comparisons that compute on other images.
    """

    images: Tensor
    labels: Tensor
    said: Tensor
    told: Tensor | None
    mine: Mapping[str, Tensor]
    theirs: Mapping[str, Tensor]
    ways: int = 1
    networks: tuple[nn.Module, nn.Module | None] | None = None

    def plain(self) -> Seen:
        """The part for the images as they are, without the turned ones."""
        if self.ways == 1:
            return self
        count = len(self.said) // self.ways
        return replace(
            self,
            images=self.images[:count],
            said=self.said[:count],
            told=None if self.told is None else self.told[:count],
            mine={layer: output[:count] for layer, output in self.mine.items()},
            theirs={layer: output[:count] for layer, output in self.theirs.items()},
            ways=1,
        )


class Found(NamedTuple):
    """The student's ``loss``, which is weighted, and the loss of the comparison's ``own`` modules, which is not."""

    loss: Tensor
    own: Tensor | None = None


class Comparison(nn.Module):
    """One loss between a student and its teacher, with the trained modules and stored tensors that it needs."""

    turns: ClassVar[bool] = False
    """True if it also needs the turned images."""
    remembers: ClassVar[bool] = False
    """True if it depends on earlier batches; it then needs whole batches."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Names of settings beside the keywords of its function."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__()
        known = LOSSES[term.name]
        own = {key: value for key, value in term.settings.items() if key not in self.settings}
        if known.tempered:
            own.setdefault("temperature", both.schedule.temperature)
        self.function = partial(known.function, **own)
        self.needs_labels = known.labels
        self.pairs = tuple(pairs)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        """The layers that it reads, or an error if the networks do not have them."""
        return []

    def forward(self, seen: Seen) -> Found:
        """The loss for these forward passes."""
        raise NotImplementedError


def turned(images: Tensor) -> Tensor:
    """The images (N, C, S, S) as they are, then turned by 90, 180 and 270 degrees (4 N, C, S, S)."""
    return torch.cat([images.rot90(turn, (2, 3)) for turn in range(TURNS)])
