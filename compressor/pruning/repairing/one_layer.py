"""Fit one layer: sum its equations over all batches, solve them, and write the weights into the student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import CompressError
from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.repairing.equations import Equations, Solution, Sums, equations_of
from compressor.pruning.repairing.fitted_layers import Behind, Norm, at_kept
from compressor.pruning.repairing.frontier import Values
from compressor.pruning.repairing.lockstep import STUDENT, TEACHER, Batch, Lockstep, Recorded
from compressor.pruning.repairing.rows import Multiplication, Positions, positions_for
from compressor.training.distributed.world import here

PIECE = 2**26
"""Bytes of rows that are made at once."""
SIDES = 1
"""How often targets outside an activation's range are put to where the student is."""
HELD = 4
"""One image of so many is held out while the ridge is chosen."""
BEYOND = 1.8
"""Each such fit is a part of the way: so many times as far is gone."""
WEAK = 0.01
"""A channel whose factor is so much smaller than the others' cannot make good a drift."""


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output is from what it should be, before it is fitted and after, as a share of its variance.

    Both are on the same inputs: those that the layers before it give when they are fitted.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class _Rows:
    """Some rows of the equations: what the layer reads, what it should give out, what its sum adds in the student.

    ``held``: of images by which the ridge is chosen.
    """

    x: Tensor
    y: Tensor
    added: Tensor | None
    held: bool


class OneLayer:
    """The layer that is the ``number``-th to be fitted, where both networks are just before it."""

    def __init__(self, both: Lockstep, number: int) -> None:
        self._both, self._number = both, number
        recorded = both.any_recorded
        self.fit = recorded.layers.fits[number]
        step = recorded.steps[self.fit.step]
        self._own = both.tensors[STUDENT]
        self._weight = self._own[self.fit.weight]
        self._multiplication = Multiplication(step.operation, step.args, self._weight)
        self._positions = positions_for(self._multiplication.unknowns, both.total_images)
        self._factor, self._offset = self._behind_norm()

    def fitted(self, batches: Iterator[tuple[Batch, Values]]) -> LayerError:
        """Sum over these batches, solve, and write. The batches are gone through again where that is needed."""
        layer, multiplication = self.fit, self._multiplication
        sizes = (multiplication.blocks, multiplication.unknowns, multiplication.outputs)
        folds = [Sums.empty(*sizes, self._weight.device) for _ in range(2)]
        for rows in self._rows(batches):
            folds[rows.held].add(rows.x, rows.y)
        for fold in folds:
            fold.total(here().total)
            if not fold.is_finite():
                raise CompressError(
                    f"cannot repair `{layer.weight}`: what it reads or gives out is not finite",
                    "check that images are normalised as in the teacher's training",
                )
        bias = torch.zeros(1) if layer.bias is None else self._own[layer.bias]
        shift = bias.to(self._weight.device).expand(sizes[0] * sizes[2]).reshape(sizes[0], sizes[2])
        equations = equations_of(folds, Solution(multiplication.matrix(self._weight), shift), layer.shifts)
        solution = self._solved(equations)
        for _ in range(SIDES if layer.rectified else 0):
            solution = solution.towards(self._solved(equations, solution), BEYOND)
        error = LayerError(
            layer.weight.removesuffix(".weight"),
            self._error(equations, equations.old),
            self._error(equations, solution),
        )
        self._write(solution)
        return error

    # ------------------------------------------------------------------ solving

    def _solved(self, equations: Equations, before: Solution | None = None) -> Solution:
        """The solution; after ``before`` with targets on the right side of the activation's range."""
        xy = y = None
        if before is not None:
            xy, y = torch.zeros_like(equations.sums.xy), torch.zeros_like(equations.sums.y)
            for rows in self._rows(self._both.values()):
                target = self._on_its_side(rows, before(rows.x))
                xy += rows.x.transpose(1, 2) @ target
                y += target.sum(1)
            here().total(xy)
            here().total(y)
        if equations.sums.gram is None:
            return equations.solved_by_steps(self._product, before, xy, y)
        return equations.solved(xy, y)

    def _product(self, v: Tensor) -> Tensor:
        """XᵀX v over all rows, for layers so wide that XᵀX is not held."""
        result = torch.zeros_like(v)
        for rows in self._rows(self._both.values()):
            result += rows.x.transpose(1, 2) @ (rows.x @ v.to(rows.x.dtype))
        return here().total(result)

    def _error(self, equations: Equations, solution: Solution) -> float:
        if equations.sums.gram is not None:
            return equations.error(solution)
        squared = torch.zeros(1, dtype=torch.float64, device=self._weight.device)
        for rows in self._rows(self._both.values()):
            squared += (solution(rows.x) - rows.y).square().sum()
        return equations.error(solution, here().total(squared))

    def _on_its_side(self, rows: _Rows, said: Tensor) -> Tensor:
        """Targets, where the activation is constant moved to what the student says as long as it is there too."""
        assert self.fit.rectified is not None
        low, high = self.fit.rectified
        strong = _strong(self._factor)
        factor = torch.where(strong, self._factor, torch.ones_like(self._factor))
        rest = self._offset if rows.added is None else self._offset + rows.added
        wanted, now = rows.y * factor + rest, said * factor + rest
        target = torch.where(wanted <= low, now.clamp_max(low), wanted)
        target = torch.where(wanted >= high, now.clamp_min(high), target)
        return torch.where(strong, (target - rest) / factor, rows.y)

    def _write(self, solution: Solution) -> None:
        self._weight.copy_(self._multiplication.weight(solution.matrix))
        if solution.shift is None:
            return
        shift = solution.shift.flatten()
        if self.fit.bias is not None:
            self._own[self.fit.bias].copy_(shift)
        elif self.fit.norm is not None:
            self._own[self.fit.norm.mean].sub_(shift.to(self._own[self.fit.norm.mean].dtype))

    # ------------------------------------------------------------------ rows

    def _rows(self, batches: Iterator[tuple[Batch, Values]]) -> Iterator[_Rows]:
        for batch, values in batches:
            yield from self._rows_of(batch, values)

    def _rows_of(self, batch: Batch, values: Values) -> Iterator[_Rows]:
        recorded = batch.recorded
        fit = recorded.layers.fits[self._number]
        operation = recorded.steps[fit.step].operation
        x = self._both.read(recorded, operation.args[0], STUDENT, values[STUDENT]).float()
        y = _remaining(recorded, operation.outputs[0], values[TEACHER][id(operation.outputs[0])]).float()
        added = None
        if fit.sum is not None:
            other = fit.sum.other
            own = values[STUDENT][id(other)].float()
            drift = _remaining(recorded, other, values[TEACHER][id(other)]).float() - own
            y = y + self._back(recorded, fit.sum.way, drift)
            added = own if fit.rectified else None
        numbers, held = _numbered(x, batch)
        few = max(1, PIECE // (self._positions * self._multiplication.row_bytes()))
        for fold in (False, True):
            for part in (held == fold).nonzero().flatten().split(few):
                seen = Positions(fit.step, numbers[part], self._positions)
                yield _Rows(
                    self._multiplication.read(x[part], seen),
                    self._multiplication.given(y[part], seen),
                    None if added is None else self._multiplication.given(added[part], seen),
                    fold,
                )

    def _back(self, recorded: Recorded, way: tuple[Behind, ...], drift: Tensor) -> Tensor:
        """What would have to be added to the layer's output, to be the drift at the sum."""
        for behind in reversed(way):
            operation = recorded.steps[behind.step].operation
            if behind.norm is not None:
                drift = _divided(drift, _along(_factor_of(behind.norm, self._own), drift.dim()))
            elif behind.scale is not None:
                drift = _divided(drift, self._own[behind.scale])
            elif behind.kind == "permute":
                drift = drift.permute(_order_back(operation))
            elif behind.kind == "reshape":
                drift = drift.reshape(recorded.remaining.shape(operation.args[0]))
        return drift

    def _behind_norm(self) -> tuple[Tensor, Tensor]:
        """What the norm behind the layer multiplies its output by and adds to it, as (blocks, 1, outputs)."""
        norm, multiplication = self.fit.norm, self._multiplication
        shape = (multiplication.blocks, 1, multiplication.outputs)
        if norm is None:
            return torch.ones(shape, device=self._weight.device), torch.zeros(
                shape, device=self._weight.device
            )
        factor = _factor_of(norm, self._own)
        offset = -factor * self._own[norm.mean].float()
        if norm.bias is not None:
            offset = offset + self._own[norm.bias].float()
        return factor.reshape(shape), offset.reshape(shape)


def _numbered(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers of what comes first in ``x`` among all batches, and which of it is held out, image by image."""
    numbers = torch.arange(len(x))
    if len(x) % batch.images:
        return numbers, torch.zeros(len(x), dtype=torch.bool)  # images do not come first here
    each = len(x) // batch.images
    numbers = numbers + batch.first * each
    return numbers, numbers // each % HELD == HELD - 1


def _remaining(recorded: Recorded, meta: Tensor, value: Tensor) -> Tensor:
    return at_kept(value, recorded.remaining.kept_along(meta))


def _factor_of(norm: Norm, own: dict[str, Tensor]) -> Tensor:
    factor = (own[norm.variance].float() + norm.epsilon).rsqrt()
    return factor if norm.weight is None else factor * own[norm.weight].float()


def _along(vector: Tensor, dims: int) -> Tensor:
    """A number for each channel, for a tensor whose channels are dimension 1."""
    return vector.view(1, -1, *(1 for _ in range(dims - 2)))


def _strong(factor: Tensor) -> Tensor:
    return factor.abs() > WEAK * factor.square().mean().sqrt()


def _divided(drift: Tensor, factor: Tensor) -> Tensor:
    strong = _strong(factor.float())
    return torch.where(strong, drift / torch.where(strong, factor.float(), torch.ones_like(factor)), 0.0)


def _order_back(operation: Operation) -> list[int]:
    """The order of dimensions that undoes a permutation."""
    dims = operation.args[0].dim()
    order = list(range(dims))
    if operation.operator == "transpose":
        one, other = (axis % dims for axis in operation.args[1:3])
        order[one], order[other] = order[other], order[one]
        return order
    forward = [axis % dims for axis in operation.args[1]]
    return [forward.index(axis) for axis in range(dims)]
