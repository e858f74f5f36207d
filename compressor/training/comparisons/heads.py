"""Comparing answers: at the end of both networks, or given by heads on the student's inner layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.recipe.loss_terms import Term
from compressor.training.comparisons.comparison import Both, Comparison, Found, Pair, Seen
from compressor.training.layer_outputs import Places, pairs_of
from compressor.training.losses import cross_entropy
from compressor.training.losses.features import pooled


class Head(nn.Module):
    """A classifier on a layer: one linear layer over the mean of each channel."""

    def __init__(self, shape: tuple[int, ...], answers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(shape[0], answers)

    def forward(self, features: Tensor) -> Tensor:
        """Its logits, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(pooled(features).float())


class Answers(Comparison):
    """What the student says, or heads at its layers if some are named, against what the teacher says."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.heads = nn.ModuleList(Head(both.student.shapes[mine], both.classes) for mine, _ in pairs)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        if term.layers is None:
            return []
        layers = [mine for mine, _ in term.layers] or student.stages
        for layer in layers:
            student.check(layer, f"loss `{term.name}`")
        return [(layer, "") for layer in layers]

    def forward(self, seen: Seen) -> Found:
        more: dict[str, Any] = {"labels": seen.labels} if self.needs_labels else {}
        if not self.pairs:
            return Found(self.function(seen.said, seen.told, **more))
        answers = [head(seen.mine[mine]) for head, (mine, _) in zip(self.heads, self.pairs, strict=True)]
        return Found(torch.stack([self.function(each, seen.told, **more) for each in answers]).mean())


class Heads(Comparison):
    """Heads at layers of both; the teacher's learn by the labels alongside, and the teacher does not notice."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        shapes = [both.shapes(pair) for pair in pairs]
        self.student = nn.ModuleList(Head(mine, both.classes) for mine, _ in shapes)
        self.teacher = nn.ModuleList(Head(theirs, both.classes) for _, theirs in shapes)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        losses, own = [], []
        for mine, theirs, (one, other) in zip(self.student, self.teacher, self.pairs, strict=True):
            told = theirs(seen.theirs[other])
            own.append(cross_entropy(told, seen.labels))
            losses.append(self.function(mine(seen.mine[one]), told.detach()))
        return Found(torch.stack(losses).mean(), torch.stack(own).mean())


def paired(term: Term, student: Places, teacher: Places | None) -> list[Pair]:
    """The layers that the term names, or else the last ones of the stages of both networks."""
    assert teacher is not None
    pairs = list(term.layers or pairs_of(student, teacher))
    for mine, theirs in pairs:
        student.check(mine, f"loss `{term.name}`")
        teacher.check(theirs, f"loss `{term.name}`")
    if not pairs:
        raise student.without_stages(term.name)
    return [*pairs]
