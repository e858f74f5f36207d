"""Comparing what both make of turned images: which turn it is beside the class, and whose turned image it is."""

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
"""The width of the space in which turned images are compared with plain ones."""
ANSWERS_SHARE = 0.27
"""How much the answers to turned images count beside a similarity of 1: 2.7 to 10 in the released code of SSKD."""
KEPT_WRONG = 0.75
"""The share of turned images that the teacher takes for another's, from the nearest miss on, which are followed."""


class Turns(Comparison):
    """Heads at layers of both that tell class and turn together; and the answers to turned images."""

    turns: ClassVar[bool] = True

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        answers = TURNS * both.classes
        self.classes = both.classes
        shapes = [both.shapes(pair) for pair in pairs]
        self.student = nn.ModuleList(Head(mine, answers) for mine, _ in shapes)
        self.teacher = nn.ModuleList(Head(theirs, answers) for _, theirs in shapes)

    @classmethod
    def look(cls, term: Term, student: Places, teacher: Places | None) -> list[Pair]:
        return paired(term, student, teacher)

    def forward(self, seen: Seen) -> Found:
        turn = torch.arange(TURNS, device=seen.labels.device).repeat_interleave(len(seen.labels))
        labels = turn * self.classes + seen.labels.repeat(TURNS)
        loss, own = self.function(seen.said, seen.told), []
        for mine, theirs, (one, other) in zip(self.student, self.teacher, self.pairs, strict=True):
            told = theirs(seen.theirs[other])
            own.append(cross_entropy(told, labels))
            loss = loss + self.function(mine(seen.mine[one]), told.detach())
        return Found(loss, torch.stack(own).sum())


class Similar(Comparison):
    """How similar each turned image is to every plain one, which a head on the teacher learns to tell."""

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
            mine = self.student(seen.mine[EMBEDDING].float())
            theirs = self.teacher(seen.theirs[EMBEDDING].float())
        mine, theirs = (each.unflatten(0, (TURNS, -1)) for each in (mine, theirs))
        rows = compared_with_plain(theirs)
        own_image = torch.arange(rows.shape[1], device=rows.device).repeat(TURNS - 1)
        pretext = F.cross_entropy(rows / 0.5, own_image)
        kept = nearly_right(rows.detach(), own_image, self.kept_wrong)
        loss = self.function(mine, theirs.detach(), kept)
        plain = len(seen.said) // TURNS
        if seen.told is not None:
            loss = loss + ANSWERS_SHARE * kd(
                seen.said[plain:], seen.told[plain:], temperature=self.temperature
            )
        return Found(loss, pretext)


def nearly_right(rows: Tensor, right: Tensor, share: float) -> Tensor:
    """The rows whose largest number is at ``right``, and this share of the others, those of the best rank there."""
    rank = (rows > rows.gather(1, right[:, None])).sum(dim=1)
    wrong = int((rank > 0).sum())
    keep = len(rank) - wrong + round(share * wrong)
    kept: Any = torch.zeros_like(rank, dtype=torch.bool)
    kept[rank.argsort(stable=True)[:keep]] = True
    return kept
