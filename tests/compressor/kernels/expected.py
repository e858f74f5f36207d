"""The sums in float64, and how far fp32 tiles may be from them.

U is the unit roundoff of fp32. A number in the sum of a tile's row is a product (w*g: 1 rounding; (w*g)^2: its own
and twice the product's, 3), then meets at most 16 additions in its lane and 5 in the shuffles: 24. In the sum of a
tile's column: 3, then 4 rows in its thread and 8 warps: 15. What follows is float64. So |error| <= 24 U sum|v|, and
25 covers the second order and float64.

An activation's product is 1 rounding; then at most 32 additions in an accumulator (4096 numbers over 32 lanes of 4 or
8 accumulators, or 256 positions over 8 warps), 8 accumulators and 5 shuffles (or 8 warps), and one rounding of the
result: 1 + 32 + 13 + 1 = 47, and 48.

Beside that, a product below fp32's normal numbers is off by half of 2^-149, its square by as much: a few 2^-149 each.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

U = 2.0**-24
WEIGHTS = 25 * U
GATES = 48 * U
TINY = 4 * 2.0**-149


def terms(weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """The five moments of every number, in the order of ``MOMENTS``."""
    w, g = weight.double(), gradient.double()
    return [w * g, (w * g).abs(), (w * g) ** 2, w**2, w.abs()]


def over_others(values: Tensor, *kept: int) -> Tensor:
    """The sum over every axis but those kept."""
    others = [axis for axis in range(values.dim()) if axis not in kept]
    return values.sum(others) if others else values


def excess(got: NDArray[np.generic], values: Tensor, allowed: float, *kept: int) -> float:
    """The worst error as a share of what is allowed: at most 1 where the sums are right, NaN where they are NaN."""
    right, size = over_others(values, *kept), over_others(values.abs(), *kept)
    if right.numel() == 0:
        return 0.0 if got.size == 0 else float("inf")
    count = values.numel() / right.numel()
    error = (torch.from_numpy(np.asarray(got, np.float64)) - right).abs()
    return float((error / (allowed * size + TINY * max(count, 1))).max())


def worst_of_weights(
    blocks: list[NDArray[np.float64]],
    weights: list[Tensor],
    gradients: list[Tensor],
    axes: list[tuple[int, int]],
    mask: int = 31,
) -> float:
    """The worst share over every asked axis and moment; NaN if any is NaN."""
    worst = [0.0]
    for block, (number, axis) in zip(blocks, axes, strict=True):
        held = [v for i, v in enumerate(terms(weights[number], gradients[number])) if mask >> i & 1]
        worst += [excess(got, values, WEIGHTS, axis) for got, values in zip(block, held, strict=True)]
    return float(np.max(worst))
