"""What every comparison of a student with its teacher is given, and what it gives back."""

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
from compressor.training.hints import Channels
from compressor.training.layer_outputs import Places
from compressor.training.losses import LOSSES
from compressor.training.precision import Arithmetic

Pair = tuple[str, str]
"""A layer of the student and one of its teacher; empty where the teacher's is not looked at."""

TURNS = 4
"""Images turned by 0, 90, 180 and 270 degrees."""


@dataclass(frozen=True)
class Both:
    """A student and one of its teachers (none: it is compared with itself), and what they learn from.

    ``kept``: of which of the teacher's layers the student is shown which channels.
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
        """The images of a batch."""
        return min(self.schedule.batch, len(self.data.train))

    @property
    def classes(self) -> int:
        """How many answers there are."""
        return len(self.data.classes)

    def shapes(self, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the two layers give out of one image."""
        theirs = {} if self.teacher is None else self.teacher.shapes
        return self.student.shapes[pair[0]], theirs[pair[1]]


@dataclass(frozen=True)
class Seen:
    """What a piece of a batch gave, of the student (``said``, ``mine``) and of its teacher (``told``, ``theirs``).

    With ``ways`` above 1 the images are there so many times: first as they are, then turned. Labels are there once.
    ``networks``: both, for images that neither has seen.
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
        """What the images gave as they are."""
        if self.ways == 1:
            return self
        count = len(self.said) // self.ways
        return replace(
            self,
            images=self.images[:count],
            said=self.said[:count],
            told=None if self.told is None else self.told[:count],
            mine={layer: each[:count] for layer, each in self.mine.items()},
            theirs={layer: each[:count] for layer, each in self.theirs.items()},
            ways=1,
        )


class Found(NamedTuple):
    """The loss, to be weighted, and what the comparison's own parts learn by, which is not."""

    loss: Tensor
    own: Tensor | None = None


class Comparison(nn.Module):
    """One loss between a student and its teacher, with all that it needs for that, learning or remembered."""

    turns: ClassVar[bool] = False
    """Whether it wants the images turned, too."""
    remembers: ClassVar[bool] = False
    """Whether it depends on the batches before, and so on seeing them whole."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """What can be set beside the keywords of its function."""

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
        """Which layers it wants to see."""
        return []

    def forward(self, seen: Seen) -> Found:
        """The loss of what was seen."""
        raise NotImplementedError


def turned(images: Tensor) -> Tensor:
    """The images (N, C, S, S) as they are, then turned by 90, 180 and 270 degrees (4 N, C, S, S)."""
    return torch.cat([images.rot90(turn, (2, 3)) for turn in range(TURNS)])
