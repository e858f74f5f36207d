"""The plain formulas, in float64: the reference for every other implementation of the sums.

Keep this file simple; it need not be fast. `torch_sums` and the kernel are correct where they agree with this file:
the tests and the benchmarks compare with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wg": lambda w, g: w * g,
    "abs_wg": lambda w, g: (w * g).abs(),
    "wg2": lambda w, g: (w * g).square(),
    "w2": lambda w, g: w.square(),
    "abs_w": lambda w, g: w.abs(),
}
NEED_GRADIENTS = frozenset({"wg", "abs_wg", "wg2"})


def weight_sums(weight: Tensor, gradient: Tensor | None, axis: int, moments: tuple[str, ...]) -> Tensor:
    """``[moments, channels]``: each moment summed over every dimension but ``axis``."""
    w = weight.detach().double()
    g = torch.zeros_like(w) if gradient is None else gradient.detach().double()
    return torch.stack([over_others(MOMENTS[name](w, g), axis) for name in moments])


def gate_sums(activation: Tensor, gradient: Tensor, channel: int) -> Tensor:
    """``[samples, channels]``: activation times gradient, summed over every dimension but the first and ``channel``."""
    product = activation.detach().double() * gradient.detach().double()
    return product.movedim(channel, 1).unsqueeze(-1).flatten(2).sum(2)


def over_others(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, 0).unsqueeze(-1).flatten(1).sum(1)
