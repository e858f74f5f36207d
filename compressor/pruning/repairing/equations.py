"""Normal equations: least squares over rows that come in pieces and are not kept.

    minimise over W, b:  |Y − X Wᵀ − b|² + λ |W − W₀|²,   W₀ the weights that the layer has

With x̄, ȳ the means and G, C the centred sums of xxᵀ and xyᵀ, W solves (G + λI) Wᵀ = C + λ W₀ᵀ, and b = ȳ − W x̄. Where
the layer cannot shift what it gives out, nothing is centred and there is no b. Sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""λ as a share of the mean diagonal of G, block by block: the one that is best on images held out is taken."""
PLENTY = 100
"""With so many rows for each unknown the smallest is right, and none is held out."""
FLOOR = 1e-6
"""The same of the mean over all blocks before centring: a channel that is constant has nothing on its own diagonal,
and float32 products leave rounding there."""
TINY = 1e-12
"""For a layer that reads nothing but zeros."""
WIDEST = 6144
"""Of more unknowns no matrix is held: they are found by conjugate gradients (one with 6,144 takes 0.3 GB)."""
STEPS = 40
"""Steps of conjugate gradients."""


@dataclass
class Sums:
    """What is summed over rows: for each block (unknowns, …) and (outputs, …). ``gram`` is absent for wide layers."""

    rows: Tensor
    x: Tensor
    y: Tensor
    xy: Tensor
    yy: Tensor
    diagonal: Tensor
    gram: Tensor | None

    @staticmethod
    def empty(blocks: int, unknowns: int, outputs: int, device: torch.device) -> Sums:
        """Nothing seen yet."""

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
        """Rows of what the layer reads and of what it should give out."""
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
        """The sums of all processes."""
        for tensor in self._tensors():
            total(tensor)

    def is_finite(self) -> bool:
        """Whether all that was seen is numbers."""
        squares = self.diagonal if self.gram is None else self.gram.diagonal(dim1=1, dim2=2)
        return all(bool(tensor.isfinite().all()) for tensor in (squares, self.xy, self.yy))

    def join(self, other: Sums) -> Sums:
        """With the rows of the other, in place."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine += theirs
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
        """These weights, moved by a share of the way to others."""
        shift = self.shift
        if shift is not None and other.shift is not None:
            shift = torch.lerp(shift, other.shift, share)
        return Solution(torch.lerp(self.matrix, other.matrix, share), shift)

    def __call__(self, x: Tensor) -> Tensor:
        """What a layer with these weights gives out, in the precision of ``x``."""
        y = x @ self.matrix.to(x.dtype).transpose(1, 2)
        return y if self.shift is None else y + self.shift.to(x.dtype).unsqueeze(1)


class Equations:
    """The equations of one layer. ``shifts``: whether a constant may be added to what it gives out."""

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
        """Weights for the sums, or for other targets: their product with what the layer reads, and their sum."""
        right, y_mean = self._right(xy, y)
        assert self._gram is not None
        while self._root is None:
            ridges = self.ridge.view(-1, 1, 1) * torch.eye(self._gram.shape[1], device=self._gram.device)
            root, trouble = torch.linalg.cholesky_ex(self._gram + ridges)
            if not trouble.any():
                self._root = root
            # Few rows and float32 products: rounding has left something below zero, larger than the ridge.
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
        """The same by conjugate gradients; ``product`` multiplies XᵀX, summed over all rows, by a matrix."""
        right, y_mean = self._right(xy, y)
        ridge = self.ridge.view(-1, 1, 1)
        right += ridge * self.old.matrix.transpose(1, 2)

        def applied(v: Tensor) -> Tensor:
            whole = product(v)
            if self.shifts:
                seen = self.x_mean.unsqueeze(1) @ v
                whole = whole - self.sums.rows * self.x_mean.unsqueeze(2) * seen
            return whole + ridge * v

        first = (start or self.old).matrix.transpose(1, 2)
        return self.with_shift(conjugate_gradients(applied, right, first).transpose(1, 2), y_mean)

    def with_shift(self, matrix: Tensor, y_mean: Tensor) -> Solution:
        """The weights with the constant that belongs to them."""
        if not self.shifts:
            return Solution(matrix, None)
        return Solution(matrix, y_mean - (matrix @ self.x_mean.unsqueeze(2)).squeeze(2))

    def error(self, solution: Solution, squared: Tensor | None = None) -> float:
        """The squared error of what the weights give, as a share of the variance of what they should give."""
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
    """The equations of all rows, with the ridge by which those of the first fold say most about the second."""
    assert old.shift is not None
    old = Solution(old.matrix.double(), old.shift.double())
    few = float(folds[0].rows) < PLENTY * folds[0].x.shape[1]
    ridge = RIDGES[0]
    if few and folds[0].gram is None:
        ridge = RIDGES[2]  # no equations are solved five times without their matrix
    elif few and folds[1].rows:
        least = float("inf")
        for each in RIDGES:
            error = float(squared_error(folds[1], Equations(folds[0], old, shifts, each).solved()))
            if error >= least:
                break  # beyond the best one it only grows
            least, ridge = error, each
    return Equations(folds[0].join(folds[1]), old, shifts, ridge)


def squared_error(sums: Sums, solution: Solution) -> Tensor:
    """The sum of |Y − X Wᵀ − b|² over the rows of these sums."""
    assert sums.gram is not None
    w = solution.matrix
    b = torch.zeros_like(sums.y) if solution.shift is None else solution.shift
    said = (w @ sums.x.unsqueeze(2)).squeeze(2)
    squares = ((w @ sums.gram) * w).sum(2) + 2 * b * said + sums.rows * b.square()
    both = (w * sums.xy.transpose(1, 2)).sum(2) + b * sums.y
    return (sums.yy - 2 * both + squares).sum().clamp_min(0)


def conjugate_gradients(applied: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
    """Solve A z = ``right`` column by column for a symmetric positive A that is only known by its products."""
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
