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
"""Largest size in bytes of the rows that are built at once."""
SIDES = 1
"""Number of fits in which targets outside an activation's range are set to the student's values."""
HELD = 4
"""One image of this many is held out while the ridge is chosen."""
BEYOND = 1.8
"""Over-relaxation: the weights move this many times as far as each such fit says."""
WEAK = 0.01
"""A channel whose factor is smaller than this share of the others' cannot correct a drift."""


@dataclass(frozen=True)
class LayerError:
    """Error of a layer's output before and after its fit, as a share of the target's variance.

    Both are on the same inputs: the outputs of the layers before it, which are fitted already.
    """

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class _Rows:
    """Some rows of the equations: the layer's inputs, its target outputs, and what its sum adds in the student.

    ``held``: True for rows of held-out images, by which the ridge is chosen.
    """

    x: Tensor
    y: Tensor
    added: Tensor | None
    held: bool


class OneLayer:
    """The ``number``-th layer to be fitted; both networks have run up to the step before it."""

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
        """Sum over these batches, solve, and write the weights. Some fits need further passes over the batches."""
        layer, multiplication = self.fit, self._multiplication
        sizes = (multiplication.blocks, multiplication.unknowns, multiplication.outputs)
        folds = [Sums.empty(*sizes, self._weight.device) for _ in range(2)]
        for rows in self._rows(batches):
            folds[rows.held].add(rows.x, rows.y)
        for fold in folds:
            fold.total(here().total)
            if not fold.is_finite():
                raise CompressError(
                    f"cannot repair `{layer.weight}`: its inputs or outputs are not finite",
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
        """The solution; with ``before``, for targets adapted to its outputs by `_on_its_side`."""
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
        """XᵀX v over all rows, for layers too wide to store XᵀX."""
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

    def _on_its_side(self, rows: _Rows, outputs: Tensor) -> Tensor:
        """Targets; where the activation is constant, the student's ``outputs`` if they are on the same side of it."""
        assert self.fit.rectified is not None
        low, high = self.fit.rectified
        strong = _strong(self._factor)
        factor = torch.where(strong, self._factor, torch.ones_like(self._factor))
        rest = self._offset if rows.added is None else self._offset + rows.added
        wanted, now = rows.y * factor + rest, outputs * factor + rest
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
                positions = Positions(fit.step, numbers[part], self._positions)
                yield _Rows(
                    self._multiplication.read(x[part], positions),
                    self._multiplication.given(y[part], positions),
                    None if added is None else self._multiplication.given(added[part], positions),
                    fold,
                )

    def _back(self, recorded: Recorded, way: tuple[Behind, ...], drift: Tensor) -> Tensor:
        """The change of the layer's output that gives this drift at the sum."""
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
        """Factor and offset of the norm after the layer, as (blocks, 1, outputs)."""
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
    """The numbers of the rows of ``x`` among those of all batches, and which rows are held out, image by image."""
    numbers = torch.arange(len(x))
    if len(x) % batch.images:
        return numbers, torch.zeros(len(x), dtype=torch.bool)  # images are not the first dimension
    per_image = len(x) // batch.images
    numbers = numbers + batch.first * per_image
    return numbers, numbers // per_image % HELD == HELD - 1


def _remaining(recorded: Recorded, meta: Tensor, value: Tensor) -> Tensor:
    return at_kept(value, recorded.remaining.kept_along(meta))


def _factor_of(norm: Norm, own: dict[str, Tensor]) -> Tensor:
    factor = (own[norm.variance].float() + norm.epsilon).rsqrt()
    return factor if norm.weight is None else factor * own[norm.weight].float()


def _along(vector: Tensor, dims: int) -> Tensor:
    """A vector of channels, shaped to broadcast over a tensor whose channels are dimension 1."""
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
