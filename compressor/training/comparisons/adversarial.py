"""Comparisons with a trained opponent: a judge of logits, and a generator of images that are hard for the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from compressor.recipe.loss_terms import Term
from compressor.training.comparisons.comparison import Both, Comparison, Found, Pair, Seen
from compressor.training.losses import cross_entropy

WIDTH = 64
"""Width of the opponents' one hidden layer."""
DRAWS = 8
"""Number of random inputs for the change of one image."""
TURN, SCALE, SHIFT, COLOUR = math.radians(20), 0.2, 0.2, 0.3
"""Largest changes: radians, relative size, share of half a side, relative contrast and brightness."""


class Judged(Comparison):
    """A judge learns to tell the student's probabilities from the teacher's, and the student learns to mislead it."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.temperature = both.schedule.temperature
        self.judge = nn.Sequential(nn.Linear(both.classes, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1))

    def forward(self, seen: Seen) -> Found:
        assert seen.told is not None
        with torch.autocast(seen.said.device.type, enabled=False):
            student, teacher = (
                (logits.float() / self.temperature).softmax(dim=1) for logits in (seen.said, seen.told)
            )
            # The student's loss gives no gradient to the judge, and the judge's none to the student.
            frozen = {name: p.detach() for name, p in self.judge.named_parameters()}
            loss = self.function(functional_call(self.judge, frozen, (student,)))
            own = F.softplus(-self.judge(teacher)).mean() + F.softplus(self.judge(student.detach())).mean()
        return Found(loss, own)


class Changed(Comparison):
    """Compares both networks on images changed so that the teacher stays right and the student differs from it.

    The change is computed from random numbers, so an image is never the same twice; the generator (``maker``) learns
    which changes are likely. One backward pass serves both: the gradient that reaches the generator is reversed.
    """

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.maker = Maker()

    def forward(self, seen: Seen) -> Found:
        assert seen.networks is not None
        student, teacher = seen.networks
        assert teacher is not None
        changed = _ReversedGradient.apply(self.maker(seen.images))
        teacher_logits, logits = teacher(changed).float(), student(changed)
        loss = self.function(logits, teacher_logits)
        teacher_loss = cross_entropy(teacher_logits, seen.labels)
        # The sign is reversed here and in the backward pass, so the generator minimises it. It trains nothing else.
        return Found(loss, teacher_loss.detach() - teacher_loss)


class Maker(nn.Module):
    """Generator: turns, scales, shifts and tints each image by the outputs of a small network for random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(DRAWS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 6))

    def forward(self, images: Tensor) -> Tensor:
        """The changed images, of the same size and type."""
        with torch.autocast(images.device.type, enabled=False):
            drawn = torch.randn(len(images), DRAWS, device=images.device)
            turn, scale, right, down, contrast, brightness = self.layers(drawn).tanh().unbind(dim=1)
            size = 1 + SCALE * scale
            cos, sin = size * (TURN * turn).cos(), size * (TURN * turn).sin()
            rows = (
                torch.stack([cos, -sin, SHIFT * right], dim=1),
                torch.stack([sin, cos, SHIFT * down], dim=1),
            )
            grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
            moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
            tint = (1 + COLOUR * contrast).view(-1, 1, 1, 1), (COLOUR * brightness).view(-1, 1, 1, 1)
            return (moved * tint[0] + tint[1]).to(images.dtype)


class _ReversedGradient(torch.autograd.Function):
    """Identity with a reversed gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -gradients[0]
