"""Comparisons of logits: those of both networks, or of heads on the student's inner layers."""

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
        """Logits, computed in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(pooled(features).float())


class Answers(Comparison):
    """The student's logits, or those of heads on its layers if some are named, against the teacher's logits."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.heads = nn.ModuleList(Head(both.student.shapes[layer], both.classes) for layer, _ in pairs)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        if term.layers is None:
            return []
        layers = [layer for layer, _ in term.layers] or student.stages
        for layer in layers:
            student.check(layer, f"loss `{term.name}`")
        return [(layer, "") for layer in layers]

    def forward(self, seen: Seen) -> Found:
        labels: dict[str, Any] = {"labels": seen.labels} if self.needs_labels else {}
        if not self.pairs:
            return Found(self.function(seen.said, seen.told, **labels))
        answers = [head(seen.mine[layer]) for head, (layer, _) in zip(self.heads, self.pairs, strict=True)]
        return Found(torch.stack([self.function(logits, seen.told, **labels) for logits in answers]).mean())


class Heads(Comparison):
    """Heads on layers of both; the teacher's heads learn from the labels at the same time, the teacher stays fixed."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        shapes = [both.shapes(pair) for pair in pairs]
        self.student = nn.ModuleList(Head(shape, both.classes) for shape, _ in shapes)
        self.teacher = nn.ModuleList(Head(shape, both.classes) for _, shape in shapes)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        losses, own = [], []
        for student, teacher, (layer, other) in zip(self.student, self.teacher, self.pairs, strict=True):
            teacher_logits = teacher(seen.theirs[other])
            own.append(cross_entropy(teacher_logits, seen.labels))
            losses.append(self.function(student(seen.mine[layer]), teacher_logits.detach()))
        return Found(torch.stack(losses).mean(), torch.stack(own).mean())


def paired(term: Term, student: Places, teacher: Places | None) -> list[Pair]:
    """The pairs of layers that the term names, or else the last ones of the stages of both networks."""
    assert teacher is not None
    pairs = list(term.layers or pairs_of(student, teacher))
    for layer, other in pairs:
        student.check(layer, f"loss `{term.name}`")
        teacher.check(other, f"loss `{term.name}`")
    if not pairs:
        raise student.without_stages(term.name)
    return [*pairs]
