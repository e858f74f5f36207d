"""Comparing what layers give out: as it is, or the student's mapped to the width of the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.recipe.loss_terms import Term
from compressor.training.comparisons.comparison import Both, Comparison, Found, Pair, Seen
from compressor.training.comparisons.heads import paired
from compressor.training.evaluate import in_eval_mode
from compressor.training.layer_outputs import EMBEDDING, Places, watching
from compressor.training.losses.features import pooled

EMBEDDED = 128
"""The width of the space in which ``crd`` and ``rrd`` compare."""
REMEMBERED = 4096
"""How many images they remember; never more than half of the data, so that an image is not compared with itself."""


class Features(Comparison):
    """The outputs of layers, whatever their widths; the mean over pairs of layers."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        losses = [
            self.one(number, seen.mine[mine], seen.theirs[theirs], seen)
            for number, (mine, theirs) in enumerate(self.pairs)
        ]
        return Found(torch.stack(losses).mean())

    def one(self, number: int, mine: Tensor, theirs: Tensor, seen: Seen) -> Tensor:
        """The loss between one pair of layers."""
        return self.function(mine, theirs)


class Shown(Features):
    """Features, of the teacher's channels those that the student is shown."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        device = both.arithmetic.device
        self.kept = [
            torch.tensor(both.kept[theirs], device=device) if theirs in both.kept else None
            for _, theirs in pairs
        ]
        for pair, kept in zip(pairs, self.kept, strict=True):
            (own, *_), (other, *_) = both.shapes(pair)
            shown = other if kept is None else len(kept)
            if own != shown:
                raise UsageError(
                    f"loss `{term.name}`: layer `{pair[0]}` of the student has {own} channels, "
                    f"`{pair[1]}` of the teacher shows {shown}",
                    "method indistill chooses the teacher's channels; fitnet maps between widths",
                )

    def one(self, number: int, mine: Tensor, theirs: Tensor, seen: Seen) -> Tensor:
        kept = self.kept[number]
        return self.function(mine, theirs if kept is None else theirs[:, kept])


class Mapped(Features):
    """Features, the student's mapped to the teacher's channels point by point."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.projections = nn.ModuleList(self.projection(*both.shapes(pair)) for pair in pairs)

    def projection(self, own: tuple[int, ...], other: tuple[int, ...]) -> nn.Module:
        """The map from the student's width to the teacher's."""
        if len(own) == 3:
            return nn.Conv2d(own[0], other[0], 1, bias=False)
        return nn.Linear(own[0], other[0], bias=False)

    def one(self, number: int, mine: Tensor, theirs: Tensor, seen: Seen) -> Tensor:
        with torch.autocast(mine.device.type, enabled=False):
            return self.function(self.projections[number](mine.float()), theirs.float())


class Embedded(Mapped):
    """One vector for each image, the student's mapped to the teacher's width; by default the embedding."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        assert teacher is not None
        pairs = list(term.layers or [(EMBEDDING, EMBEDDING)])
        for mine, theirs in pairs:
            student.check(mine, f"loss `{term.name}`")
            teacher.check(theirs, f"loss `{term.name}`")
        return [*pairs]

    def projection(self, own: tuple[int, ...], other: tuple[int, ...]) -> nn.Module:
        return nn.Linear(own[0], other[0], bias=False)

    def one(self, number: int, mine: Tensor, theirs: Tensor, seen: Seen) -> Tensor:
        with torch.autocast(mine.device.type, enabled=False):
            mine = self.projections[number](pooled(mine.float()))
            return self.function(mine, pooled(theirs.float()), **self.more(seen))

    def more(self, seen: Seen) -> dict[str, Any]:
        """What else the function is given."""
        return {}


class Embeddings(Features):
    """Features as they are, by default the embedding: what compares all triples of images is dear for whole maps."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return Embedded.look(term, student, teacher)


class Centred(Embedded):
    """Embeddings beside the teacher's mean embedding of each class."""

    centres: Tensor

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        ((_, layer),) = pairs
        self.register_buffer("centres", _centres(layer, both))

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        pairs = super().look(term, student, teacher)
        if len(pairs) > 1:
            raise UsageError(
                f"loss `{term.name}` compares one layer with the centres of classes", "name one layer"
            )
        return pairs

    def more(self, seen: Seen) -> dict[str, Any]:
        return {"labels": seen.labels, "centres": self.centres}


class Remembered(Comparison):
    """Embeddings of both in one small space, beside the teacher's of earlier images."""

    remembers: ClassVar[bool] = True

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.samples = len(both.data.train)
        (pair,) = pairs
        self.student, self.teacher = (nn.Linear(shape[0], EMBEDDED) for shape in both.shapes(pair))
        self.memory = Memory(min(REMEMBERED, max(1, self.samples // 2)))
        # One looks for its own image among the remembered, too, so that one is remembered first.
        self.first = term.name == "rrd"

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        pairs = Embedded.look(term, student, teacher)
        if len(pairs) > 1:
            raise UsageError(f"loss `{term.name}` remembers what one layer gives out", "name one layer")
        return pairs

    def forward(self, seen: Seen) -> Found:
        ((one, other),) = self.pairs
        with torch.autocast(seen.said.device.type, enabled=False):
            mine = F.normalize(self.student(pooled(seen.mine[one].float())), dim=1)
            theirs = F.normalize(self.teacher(pooled(seen.theirs[other].float())), dim=1)
        if self.first:
            self.memory.add(theirs.detach())
            return Found(self.function(mine, theirs, self.memory.others))
        found = self.function(mine, theirs, self.memory.others.clone(), samples=self.samples)
        self.memory.add(theirs.detach())
        return Found(found)


class Memory(nn.Module):
    """The embeddings of the latest images, first in, first out."""

    others: Tensor
    place: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("others", F.normalize(torch.randn(size, EMBEDDED), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, embeddings: Tensor) -> None:
        """Remember these, forget the oldest."""
        size = len(self.others)
        latest = embeddings[-size:]
        index = (self.place + torch.arange(len(latest), device=latest.device)) % size
        self.others[index] = latest.to(self.others.dtype)
        self.place.copy_((self.place + len(latest)) % size)


@torch.no_grad()
def _centres(layer: str, both: Both) -> Tensor:
    """The teacher's mean feature of each class."""
    teacher, places, arithmetic = both.network, both.teacher, both.arithmetic
    assert teacher is not None
    assert places is not None
    sums = torch.zeros(both.classes, places.shapes[layer][0], device=arithmetic.device)
    seen = torch.zeros(both.classes, 1, device=arithmetic.device)
    with in_eval_mode(teacher), watching(teacher, [layer], places.classifier) as shown:
        for batch in both.data.train.batches(256):
            with arithmetic.autocast():
                teacher(arithmetic.images(batch.images))
            labels = batch.labels.to(arithmetic.device)
            sums.index_add_(0, labels, pooled(shown[layer]).float())
            seen.index_add_(0, labels, torch.ones(len(labels), 1, device=arithmetic.device))
    return sums / seen.clamp(min=1)
