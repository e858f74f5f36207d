"""Comparisons of layer outputs, unchanged or with the student's mapped to the teacher's width."""

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
"""Width of the space in which ``crd`` and ``rrd`` compare."""
REMEMBERED = 4096
"""Number of images in their memory; at most half of the data, so that an image is not compared with itself."""


class Features(Comparison):
    """Outputs of layers of any width; the loss is the mean over pairs of layers."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        losses = [
            self.one(number, seen.mine[layer], seen.theirs[other], seen)
            for number, (layer, other) in enumerate(self.pairs)
        ]
        return Found(torch.stack(losses).mean())

    def one(self, number: int, student: Tensor, teacher: Tensor, seen: Seen) -> Tensor:
        """Loss between the outputs of one pair of layers."""
        return self.function(student, teacher)


class Shown(Features):
    """Features, compared only with those channels of the teacher that the guide keeps."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        device = both.arithmetic.device
        self.kept = [
            torch.tensor(both.kept[layer], device=device) if layer in both.kept else None
            for _, layer in pairs
        ]
        for pair, kept in zip(pairs, self.kept, strict=True):
            (own, *_), (other, *_) = both.shapes(pair)
            expected = other if kept is None else len(kept)
            if own != expected:
                raise UsageError(
                    f"loss `{term.name}`: layer `{pair[0]}` of the student has {own} channels, "
                    f"expected {expected} as in `{pair[1]}` of the teacher",
                    "use method indistill, which chooses the teacher's channels, or loss fitnet, which maps widths",
                )

    def one(self, number: int, student: Tensor, teacher: Tensor, seen: Seen) -> Tensor:
        kept = self.kept[number]
        return self.function(student, teacher if kept is None else teacher[:, kept])


class Mapped(Features):
    """Features, the student's mapped to the teacher's channels by a 1×1 convolution or a linear layer."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.projections = nn.ModuleList(self.projection(*both.shapes(pair)) for pair in pairs)

    def projection(self, own: tuple[int, ...], other: tuple[int, ...]) -> nn.Module:
        """A layer that maps the student's width to the teacher's."""
        if len(own) == 3:
            return nn.Conv2d(own[0], other[0], 1, bias=False)
        return nn.Linear(own[0], other[0], bias=False)

    def one(self, number: int, student: Tensor, teacher: Tensor, seen: Seen) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return self.function(self.projections[number](student.float()), teacher.float())


class Embedded(Mapped):
    """One vector per image, the student's mapped to the teacher's width; by default the embedding."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        assert teacher is not None
        pairs = list(term.layers or [(EMBEDDING, EMBEDDING)])
        for layer, other in pairs:
            student.check(layer, f"loss `{term.name}`")
            teacher.check(other, f"loss `{term.name}`")
        return [*pairs]

    def projection(self, own: tuple[int, ...], other: tuple[int, ...]) -> nn.Module:
        return nn.Linear(own[0], other[0], bias=False)

    def one(self, number: int, student: Tensor, teacher: Tensor, seen: Seen) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            student = self.projections[number](pooled(student.float()))
            return self.function(student, pooled(teacher.float()), **self.more(seen))

    def more(self, seen: Seen) -> dict[str, Any]:
        """Further arguments of the loss function."""
        return {}


class Embeddings(Features):
    """Features as they are, by default the embedding: comparing all triples of images is costly for whole maps."""

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return Embedded.look(term, student, teacher)


class Centred(Embedded):
    """Embeddings, and the teacher's mean embedding of each class."""

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
                f"loss `{term.name}` compares 1 layer with the centres of classes, and {len(pairs)} are named",
                "name one pair of layers",
            )
        return pairs

    def more(self, seen: Seen) -> dict[str, Any]:
        return {"labels": seen.labels, "centres": self.centres}


class Remembered(Comparison):
    """Embeddings of both in one small space, compared with the teacher's of earlier images."""

    remembers: ClassVar[bool] = True

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.samples = len(both.data.train)
        (pair,) = pairs
        self.student, self.teacher = (nn.Linear(shape[0], EMBEDDED) for shape in both.shapes(pair))
        self.memory = Memory(min(REMEMBERED, max(1, self.samples // 2)))
        # rrd expects the images of the batch in the memory too, so they are added before the comparison.
        self.first = term.name == "rrd"

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        pairs = Embedded.look(term, student, teacher)
        if len(pairs) > 1:
            raise UsageError(
                f"loss `{term.name}` compares the outputs of 1 layer, and {len(pairs)} are named",
                "name one pair of layers",
            )
        return pairs

    def forward(self, seen: Seen) -> Found:
        ((layer, other),) = self.pairs
        with torch.autocast(seen.said.device.type, enabled=False):
            student = F.normalize(self.student(pooled(seen.mine[layer].float())), dim=1)
            teacher = F.normalize(self.teacher(pooled(seen.theirs[other].float())), dim=1)
        if self.first:
            self.memory.add(teacher.detach())
            return Found(self.function(student, teacher, self.memory.others))
        # A clone, because `add` changes the memory before the backward pass.
        loss = self.function(student, teacher, self.memory.others.clone(), samples=self.samples)
        self.memory.add(teacher.detach())
        return Found(loss)


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
        """Store these in place of the oldest."""
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
    counts = torch.zeros(both.classes, 1, device=arithmetic.device)
    with in_eval_mode(teacher), watching(teacher, [layer], places.classifier) as outputs:
        for batch in both.data.train.batches(256):
            with arithmetic.autocast():
                teacher(arithmetic.images(batch.images))
            labels = batch.labels.to(arithmetic.device)
            sums.index_add_(0, labels, pooled(outputs[layer]).float())
            counts.index_add_(0, labels, torch.ones(len(labels), 1, device=arithmetic.device))
    return sums / counts.clamp(min=1)
