"""Comparisons with an opponent that learns too: a judge of answers, and a maker of images that are hard to answer."""

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
"""Of the opponents' one hidden layer."""
DRAWS = 8
"""Random numbers from which one image's change is made."""
TURN, SCALE, SHIFT, COLOUR = math.radians(20), 0.2, 0.2, 0.3
"""How far a change may go: radians, relative size, share of half a side, relative contrast and brightness."""


class Judged(Comparison):
    """A judge learns to tell the student's softened answers from the teacher's, and the student to be taken for it."""

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.temperature = both.schedule.temperature
        self.judge = nn.Sequential(nn.Linear(both.classes, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, 1))

    def forward(self, seen: Seen) -> Found:
        assert seen.told is not None
        with torch.autocast(seen.said.device.type, enabled=False):
            mine, theirs = (
                (each.float() / self.temperature).softmax(dim=1) for each in (seen.said, seen.told)
            )
            as_it_is = {name: p.detach() for name, p in self.judge.named_parameters()}
            loss = self.function(functional_call(self.judge, as_it_is, (mine,)))
            own = F.softplus(-self.judge(theirs)).mean() + F.softplus(self.judge(mine.detach())).mean()
        return Found(loss, own)


class Changed(Comparison):
    """Images are changed so that the teacher stays right and the student differs from it, and both see them.

    The change is made of random numbers, so an image is never the same twice; which changes are likely is learned. In
    one backward pass: what reaches the maker of changes is turned round.
    """

    def __init__(self, term: Term, pairs: Sequence[Pair], both: Both) -> None:
        super().__init__(term, pairs, both)
        self.maker = Maker()

    def forward(self, seen: Seen) -> Found:
        assert seen.networks is not None
        student, teacher = seen.networks
        assert teacher is not None
        changed = _TurnedRound.apply(self.maker(seen.images))
        told, said = teacher(changed).float(), student(changed)
        loss = self.function(said, told)
        right = cross_entropy(told, seen.labels)
        # Turned round it asks the maker for images on which the teacher is right; to nobody else it says a thing.
        return Found(loss, right.detach() - right)


class Maker(nn.Module):
    """Turns, scales, shifts and tints each image as random numbers and a small network say, within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(DRAWS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 6))

    def forward(self, images: Tensor) -> Tensor:
        """The images, changed; of the same size and type."""
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


class _TurnedRound(torch.autograd.Function):
    """The same numbers, and the opposite of their gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -gradients[0]
