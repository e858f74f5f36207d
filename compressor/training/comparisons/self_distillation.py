"""Comparisons of a student with itself: with a head on a middle layer, or with its logits for the last batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from compressor.errors import UsageError
from compressor.recipe.loss_terms import Term
from compressor.training.comparisons.comparison import Both, Comparison, Found, Pair, Seen
from compressor.training.comparisons.heads import Head
from compressor.training.layer_outputs import Places
from compressor.training.losses import cross_entropy


class Middle(Comparison):
    """A head on a middle layer, which learns from the labels; the student's logits follow the head's."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        ((layer, _),) = pairs
        self.head = Head(both.student.shapes[layer], both.classes)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        stages = student.stages
        layers = [layer for layer, _ in term.layers or ()] or stages[(len(stages) - 1) // 2 :][:1]
        if not layers:
            raise student.without_stages(term.name)
        if len(layers) > 1:
            raise UsageError(
                f"loss `{term.name}` puts a head on 1 layer, and {len(layers)} are named", "name one layer"
            )
        student.check(layers[0], f"loss `{term.name}`")
        return [(layers[0], "")]

    def forward(self, seen: Seen) -> Found:
        ((layer, _),) = self.pairs
        middle = self.head(seen.mine[layer])
        return Found(self.function(seen.said, middle), cross_entropy(middle, seen.labels))


class Before(Comparison):
    """The logits for the last batch; the loss is 0 for the first batch and for one of another size."""

    remembers: ClassVar[bool] = True
    said: Tensor
    count: Tensor

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        # Of fixed size, because a checkpoint restores only tensors of the same shape.
        self.register_buffer("said", torch.zeros(both.batch, both.classes))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, seen: Seen) -> Found:
        size, before = len(seen.said), int(self.count)
        loss = seen.said.new_zeros(())
        if before == size:
            loss = self.function(seen.said, self.said[:size].clone())
        with torch.no_grad():
            self.said[:size].copy_(seen.said)
            self.count.fill_(size)
        return Found(loss)
