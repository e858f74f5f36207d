"""Losses beside the teacher's answers and the labels, between one student and one of its teachers.

What they need to compare the two (projections to one width, heads on layers, memories of earlier images, opponents) is
made here, learns with the student, is saved with its checkpoints, and is left behind when the network is handed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.recipe.loss_terms import Term
from compressor.recipe.schedule import Schedule
from compressor.training.comparisons.comparison import TURNS, Both, Seen
from compressor.training.comparisons.comparison_table import COMPARISONS
from compressor.training.hints import Channels
from compressor.training.layer_outputs import Places, watching
from compressor.training.losses import LOSSES
from compressor.training.precision import Arithmetic
from compressor.training.seeds import seed_of


class Beside(nn.Module):
    """The terms between a student and one teacher (none: with itself), as a module of all that they need."""

    def __init__(
        self,
        terms: Sequence[Term],
        student: nn.Module,
        teacher: nn.Module | None,
        data: Data,
        arithmetic: Arithmetic,
        *,
        schedule: Schedule,
        seed: int = 0,
        kept: Channels = MappingProxyType({}),
    ) -> None:
        super().__init__()
        image = arithmetic.images(torch.zeros(1, *data.shape))
        with arithmetic.autocast():
            mine = Places(student, image, "student")
            theirs = None if teacher is None else Places(teacher, image, "teacher")
        both = Both(mine, theirs, teacher, data, arithmetic, schedule, kept)
        self.terms = tuple(terms)
        self._both = both
        kinds = [COMPARISONS[term.name] for term in terms]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, 0, "projections"))
            self.comparisons = nn.ModuleList(
                kind(term, kind.look(term, mine, theirs), both)
                for kind, term in zip(kinds, terms, strict=True)
            )
        self.ways = TURNS if any(kind.turns for kind in kinds) else 1
        self.to(arithmetic.device)

    @contextmanager
    def watching(self, student: nn.Module, teacher: nn.Module | None) -> Iterator[tuple[Any, Any]]:
        """What the layers of both give out while the block runs."""
        pairs = [pair for each in self.comparisons for pair in each.pairs]  # type: ignore[union-attr]
        with ExitStack() as stack:
            shown: dict[str, Tensor] = {}
            seen = stack.enter_context(
                watching(student, [mine for mine, _ in pairs if mine], self._both.student.classifier)
            )
            if teacher is not None and self._both.teacher is not None:
                layers = [theirs for _, theirs in pairs if theirs]
                shown = stack.enter_context(watching(teacher, layers, self._both.teacher.classifier))
            yield seen, shown

    def loss(self, epoch: int, seen: Seen) -> Tensor:
        """Σ of weight · loss over the terms, and what their own parts learn by."""
        plain = seen.plain()
        total = torch.zeros((), device=seen.said.device)
        for term, comparison in zip(self.terms, self.comparisons, strict=True):
            usual = LOSSES[term.name].weight
            weight = (usual if term.weight is None else term.weight) * term.share_at(epoch)
            if weight == 0:
                continue
            found = comparison(seen if comparison.turns else plain)
            total = total + weight * found.loss
            if found.own is not None:
                total = total + found.own
        return total
