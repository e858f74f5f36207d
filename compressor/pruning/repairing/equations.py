"""Normal equations: least squares over rows that come in pieces and are not stored.

    minimise over W, b:  |Y − X Wᵀ − b|² + λ |W − W₀|²,   W₀ the weights that the layer has

With x̄, ȳ the means and G, C the centred sums of xxᵀ and xyᵀ, W solves (G + λI) Wᵀ = C + λ W₀ᵀ, and b = ȳ − W x̄. Where
no constant can be added to the layer's output, nothing is centred and there is no b. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""λ as a share of the mean diagonal of G, block by block: the best one on held-out images is taken."""
PLENTY = 100
"""With this many rows per unknown the smallest ridge is right, and is taken without a comparison."""
FLOOR = 1e-6
"""Added to λ, as a share of the mean over all blocks before centring: a constant channel has 0 on its diagonal, and
float32 products leave rounding errors there."""
TINY = 1e-12
"""Added to λ for a layer whose inputs are all 0."""
WIDEST = 6144
"""With more unknowns G is not stored: they are found by conjugate gradients (G of 6,144 unknowns takes 0.3 GB)."""
STEPS = 40
"""Largest number of steps of conjugate gradients."""


@dataclass
class Sums:
    """Sums over rows: for each block (unknowns, …) and (outputs, …). ``gram`` is None for wide layers."""

    rows: Tensor
    x: Tensor
    y: Tensor
    xy: Tensor
    yy: Tensor
    diagonal: Tensor
    gram: Tensor | None

    @staticmethod
    def empty(blocks: int, unknowns: int, outputs: int, device: torch.device) -> Sums:
        """Sums of no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        gram = zeros(blocks, unknowns, unknowns) if unknowns <= WIDEST else None
        return Sums(
            zeros(1),
            zeros(blocks, unknowns),
            zeros(blocks, outputs),
            zeros(blocks, unknowns, outputs),
            zeros(blocks, outputs),
            zeros(blocks, unknowns),
            gram,
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows of the layer's inputs ``x`` and target outputs ``y``."""
        self.rows += x.shape[1]
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.xy += x.transpose(1, 2) @ y
        self.yy += y.square().sum(1)
        if self.gram is None:
            self.diagonal += x.square().sum(1)
        else:
            self.gram += x.transpose(1, 2) @ x

    def total(self, total: Callable[[Tensor], Tensor]) -> None:
        """Sum over all processes, in place."""
        for tensor in self._tensors():
            total(tensor)

    def is_finite(self) -> bool:
        """True if all added rows were finite."""
        squares = self.diagonal if self.gram is None else self.gram.diagonal(dim1=1, dim2=2)
        return all(bool(tensor.isfinite().all()) for tensor in (squares, self.xy, self.yy))

    def join(self, other: Sums) -> Sums:
        """Add the rows of the other, in place."""
        for own, added in zip(self._tensors(), other._tensors(), strict=True):
            own += added
        return self

    def _tensors(self) -> list[Tensor]:
        tensors = [self.rows, self.x, self.y, self.xy, self.yy, self.diagonal]
        return tensors if self.gram is None else [*tensors, self.gram]


@dataclass(frozen=True)
class Solution:
    """Weights as (blocks, outputs, unknowns), and a constant for each output."""

    matrix: Tensor
    shift: Tensor | None

    def towards(self, other: Solution, share: float) -> Solution:
        """Move these weights by a share of the way to others."""
        shift = self.shift
        if shift is not None and other.shift is not None:
            shift = torch.lerp(shift, other.shift, share)
        return Solution(torch.lerp(self.matrix, other.matrix, share), shift)

    def __call__(self, x: Tensor) -> Tensor:
        """The output of a layer with these weights, in the precision of ``x``."""
        y = x @ self.matrix.to(x.dtype).transpose(1, 2)
        return y if self.shift is None else y + self.shift.to(x.dtype).unsqueeze(1)


class Equations:
    """The equations of one layer. ``shifts``: True if a constant can be added to its output."""

    def __init__(self, sums: Sums, old: Solution, shifts: bool, ridge: float) -> None:
        self.sums, self.shifts, self.old = sums, shifts, old
        self.x_mean, self.y_mean = sums.x / sums.rows, sums.y / sums.rows
        self._gram = sums.gram
        squares = sums.diagonal if sums.gram is None else sums.gram.diagonal(dim1=1, dim2=2)
        diagonal = squares
        if shifts:
            diagonal = (squares - sums.rows * self.x_mean.square()).clamp_min(0)
            if self._gram is not None:
                self._gram = self._gram - sums.rows * self.x_mean.unsqueeze(2) * self.x_mean.unsqueeze(1)
        self.ridge = ridge * diagonal.mean(1) + FLOOR * squares.mean() + TINY
        self._root: Tensor | None = None

    def solved(self, xy: Tensor | None = None, y: Tensor | None = None) -> Solution:
        """Solve for the summed targets, or for others: ``xy``, their products with the inputs, and ``y``, their sum."""
        right, y_mean = self._right(xy, y)
        assert self._gram is not None
        while self._root is None:
            ridges = self.ridge.view(-1, 1, 1) * torch.eye(self._gram.shape[1], device=self._gram.device)
            root, trouble = torch.linalg.cholesky_ex(self._gram + ridges)
            if not trouble.any():
                self._root = root
            # With few rows and float32 products, rounding can give a negative eigenvalue larger than the ridge.
            self.ridge = torch.where(trouble > 0, 10 * self.ridge, self.ridge)
        right += self.ridge.view(-1, 1, 1) * self.old.matrix.transpose(1, 2)
        matrix = torch.cholesky_solve(right, self._root).transpose(1, 2)
        return self.with_shift(matrix, y_mean)

    def solved_by_steps(
        self,
        product: Callable[[Tensor], Tensor],
        start: Solution | None = None,
        xy: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Solution:
        """Solve by conjugate gradients; ``product`` multiplies XᵀX, summed over all rows, by a matrix."""
        right, y_mean = self._right(xy, y)
        ridge = self.ridge.view(-1, 1, 1)
        right += ridge * self.old.matrix.transpose(1, 2)

        def applied(v: Tensor) -> Tensor:
            whole = product(v)
            if self.shifts:
                projected = self.x_mean.unsqueeze(1) @ v
                whole = whole - self.sums.rows * self.x_mean.unsqueeze(2) * projected
            return whole + ridge * v

        first = (start or self.old).matrix.transpose(1, 2)
        return self.with_shift(conjugate_gradients(applied, right, first).transpose(1, 2), y_mean)

    def with_shift(self, matrix: Tensor, y_mean: Tensor) -> Solution:
        """The weights with their constant b = ȳ − W x̄."""
        if not self.shifts:
            return Solution(matrix, None)
        return Solution(matrix, y_mean - (matrix @ self.x_mean.unsqueeze(2)).squeeze(2))

    def error(self, solution: Solution, squared: Tensor | None = None) -> float:
        """The squared error of the weights' outputs, as a share of the variance of the targets."""
        spread = self.sums.yy.sum()
        if self.shifts:
            spread = spread - (self.sums.rows * self.y_mean.square()).sum()
        error = squared_error(self.sums, solution) if squared is None else squared
        return float(error / spread.clamp_min(1e-30))

    def _right(self, xy: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
        xy = self.sums.xy if xy is None else xy
        y_mean = self.y_mean if y is None else y / self.sums.rows
        if not self.shifts:
            return xy.clone(), y_mean
        return xy - self.sums.rows * self.x_mean.unsqueeze(2) * y_mean.unsqueeze(1), y_mean


def equations_of(folds: list[Sums], old: Solution, shifts: bool) -> Equations:
    """The equations of all rows, with the ridge for which a fit on the first fold has the least error on the second."""
    assert old.shift is not None
    old = Solution(old.matrix.double(), old.shift.double())
    few = float(folds[0].rows) < PLENTY * folds[0].x.shape[1]
    ridge = RIDGES[0]
    if few and folds[0].gram is None:
        ridge = RIDGES[2]  # without G, solving once for each ridge would take too long
    elif few and folds[1].rows:
        least = float("inf")
        for candidate in RIDGES:
            error = float(squared_error(folds[1], Equations(folds[0], old, shifts, candidate).solved()))
            if error >= least:
                break  # after the best ridge the error only grows
            least, ridge = error, candidate
    return Equations(folds[0].join(folds[1]), old, shifts, ridge)


def squared_error(sums: Sums, solution: Solution) -> Tensor:
    """The sum of |Y − X Wᵀ − b|² over the rows of these sums."""
    assert sums.gram is not None
    w = solution.matrix
    b = torch.zeros_like(sums.y) if solution.shift is None else solution.shift
    outputs = (w @ sums.x.unsqueeze(2)).squeeze(2)
    squares = ((w @ sums.gram) * w).sum(2) + 2 * b * outputs + sums.rows * b.square()
    both = (w * sums.xy.transpose(1, 2)).sum(2) + b * sums.y
    return (sums.yy - 2 * both + squares).sum().clamp_min(0)


def conjugate_gradients(applied: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
    """Solve A z = ``right`` column by column for a symmetric positive A, given only the product z -> A z."""
    z = start.clone()
    residual = right - applied(z)
    direction = residual.clone()
    size = residual.square().sum(1, keepdim=True)
    enough = 1e-10 * right.square().sum(1, keepdim=True)
    for _ in range(STEPS):
        if bool((size <= enough).all()):
            break
        moved = applied(direction)
        length = size / (direction * moved).sum(1, keepdim=True).clamp_min(1e-300)
        z += length * direction
        residual -= length * moved
        new = residual.square().sum(1, keepdim=True)
        direction = residual + new / size.clamp_min(1e-300) * direction
        size = new
    return z
