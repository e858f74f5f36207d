"""Comparisons on turned images: predict the turn together with the class, or find the plain image of a turned one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.recipe.loss_terms import Term
from compressor.training.comparisons.comparison import TURNS, Both, Comparison, Found, Pair, Seen
from compressor.training.comparisons.heads import Head, paired
from compressor.training.layer_outputs import EMBEDDING, Places
from compressor.training.losses import cross_entropy, kd
from compressor.training.losses.contrast import compared_with_plain

EMBEDDED = 128
"""Width of the space in which turned images are compared with plain ones."""
ANSWERS_SHARE = 0.27
"""Weight of the logits for turned images, where the similarity has weight 1: 2.7 to 10 in the code of SSKD."""
KEPT_WRONG = 0.75
"""Share used of the turned images that the teacher assigns to a wrong plain image, smallest error first."""


class Turns(Comparison):
    """Heads on layers of both that predict class and turn together; and the logits for turned images."""

    turns: ClassVar[bool] = True

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        answers = TURNS * both.classes
        self.classes = both.classes
        shapes = [both.shapes(pair) for pair in pairs]
        self.student = nn.ModuleList(Head(shape, answers) for shape, _ in shapes)
        self.teacher = nn.ModuleList(Head(shape, answers) for _, shape in shapes)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        turn = torch.arange(TURNS, device=seen.labels.device).repeat_interleave(len(seen.labels))
        labels = turn * self.classes + seen.labels.repeat(TURNS)
        loss, own = self.function(seen.said, seen.told), []
        for student, teacher, (layer, other) in zip(self.student, self.teacher, self.pairs, strict=True):
            teacher_logits = teacher(seen.theirs[other])
            own.append(cross_entropy(teacher_logits, labels))
            loss = loss + self.function(student(seen.mine[layer]), teacher_logits.detach())
        return Found(loss, torch.stack(own).sum())


class Similar(Comparison):
    """Similarity of each turned image to every plain one; a head on the teacher learns to find the right one."""

    turns: ClassVar[bool] = True
    settings: ClassVar[frozenset[str]] = frozenset({"kept_wrong"})

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        (pair,) = pairs
        self.temperature = both.schedule.temperature
        self.kept_wrong = float(term.settings.get("kept_wrong", KEPT_WRONG))
        self.student, self.teacher = (
            nn.Sequential(nn.Linear(width, EMBEDDED), nn.ReLU(), nn.Linear(EMBEDDED, EMBEDDED))
            for width, *_ in both.shapes(pair)
        )

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        assert teacher is not None
        for places in (student, teacher):
            places.check(EMBEDDING, f"loss `{term.name}`")
        return [(EMBEDDING, EMBEDDING)]

    def forward(self, seen: Seen) -> Found:
        with torch.autocast(seen.said.device.type, enabled=False):
            student = self.student(seen.mine[EMBEDDING].float())
            teacher = self.teacher(seen.theirs[EMBEDDING].float())
        student, teacher = (vectors.unflatten(0, (TURNS, -1)) for vectors in (student, teacher))
        rows = compared_with_plain(teacher)
        own_image = torch.arange(rows.shape[1], device=rows.device).repeat(TURNS - 1)
        pretext = F.cross_entropy(rows / 0.5, own_image)
        kept = nearly_right(rows.detach(), own_image, self.kept_wrong)
        loss = self.function(student, teacher.detach(), kept)
        plain = len(seen.said) // TURNS
        if seen.told is not None:
            loss = loss + ANSWERS_SHARE * kd(
                seen.said[plain:], seen.told[plain:], temperature=self.temperature
            )
        return Found(loss, pretext)


def nearly_right(rows: Tensor, right: Tensor, share: float) -> Tensor:
    """Mask of rows: all whose largest number is at ``right``, and ``share`` of the others, best rank first."""
    rank = (rows > rows.gather(1, right[:, None])).sum(dim=1)
    wrong = int((rank > 0).sum())
    keep = len(rank) - wrong + round(share * wrong)
    kept: Any = torch.zeros_like(rank, dtype=torch.bool)
    kept[rank.argsort(stable=True)[:keep]] = True
    return kept
