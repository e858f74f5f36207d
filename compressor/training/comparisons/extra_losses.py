"""Extra losses, in addition to labels and teacher logits, between one student and one of its teachers.

The modules that they need (projections to one width, heads on layers, memories of earlier images, opponents) are
built here, trained and saved with the student, and are not part of the returned network.
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
from compressor.training.layer_outputs import Channels, Places, watching
from compressor.training.losses import LOSSES
from compressor.training.precision import Arithmetic
from compressor.training.seeds import seed_of


class Beside(nn.Module):
    """The loss terms between a student and one teacher (None: with itself), as a module with all that they train."""

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
            student_layers = Places(student, image, "student")
            teacher_layers = None if teacher is None else Places(teacher, image, "teacher")
        both = Both(student_layers, teacher_layers, teacher, data, arithmetic, schedule, kept)
        self.terms = tuple(terms)
        self._both = both
        kinds = [COMPARISONS[term.name] for term in terms]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, 0, "projections"))
            self.comparisons = nn.ModuleList(
                kind(term, kind.look(term, student_layers, teacher_layers), both)
                for kind, term in zip(kinds, terms, strict=True)
            )
        self.ways = TURNS if any(kind.turns for kind in kinds) else 1
        self.to(arithmetic.device)

    @contextmanager
    def watching(self, student: nn.Module, teacher: nn.Module | None) -> Iterator[tuple[Any, Any]]:
        """Yield the layer outputs of student and teacher, as dictionaries that fill while the block runs."""
        pairs = [pair for comparison in self.comparisons for pair in comparison.pairs]  # type: ignore[union-attr]
        with ExitStack() as stack:
            teacher_outputs: dict[str, Tensor] = {}
            outputs = stack.enter_context(
                watching(student, [layer for layer, _ in pairs if layer], self._both.student.classifier)
            )
            if teacher is not None and self._both.teacher is not None:
                layers = [layer for _, layer in pairs if layer]
                teacher_outputs = stack.enter_context(
                    watching(teacher, layers, self._both.teacher.classifier)
                )
            yield outputs, teacher_outputs

    def loss(self, epoch: int, seen: Seen) -> Tensor:
        """Σ of weight · loss over the terms, plus the losses of their own modules."""
        plain = seen.plain()
        total = torch.zeros((), device=seen.said.device)
        for term, comparison in zip(self.terms, self.comparisons, strict=True):
            default = LOSSES[term.name].weight
            weight = (default if term.weight is None else term.weight) * term.share_at(epoch)
            if weight == 0:
                continue
            result = comparison(seen if comparison.turns else plain)
            total = total + weight * result.loss
            if result.own is not None:
                total = total + result.own
        return total
