"""Choose the layers of a cut network to fit, find the operators after each of them, and the reasons to leave others.

A layer is fitted if its input differs from its input in the teacher: channels were removed, or an earlier layer
changed values. Only the labelled recording is used, so the class of a module does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.pruning.cutting.program_steps import Step
from compressor.pruning.cutting.silenced import OVER_CHANNELS, SUMS_OVER
from compressor.pruning.graph.labelled import Walk
from compressor.pruning.graph.recording.operation import Operation, tensors_in
from compressor.pruning.graph.rules.table import DROPOUTS

BATCH_NORMS = ("batch_norm",)


@dataclass(frozen=True)
class Norm:
    """A batch norm with running statistics: the number of its step, the names of its tensors, and its epsilon."""

    step: int
    mean: str
    variance: str
    weight: str | None
    bias: str | None
    epsilon: float


@dataclass(frozen=True)
class Behind:
    """One operator between a layer and the sum after it: its step, its kind, and the tensors needed to invert it."""

    step: int
    kind: str
    norm: Norm | None = None
    scale: str | None = None


@dataclass(frozen=True)
class Sum:
    """A sum that a layer's output goes into, through the operators ``way``; ``other`` is computed before the layer."""

    other: Tensor
    way: tuple[Behind, ...]


@dataclass(frozen=True)
class Fit:
    """A layer to be fitted: the number of its step, its tensors, and the norm, sum and activation after it.

    ``rectified``: the range of values, after its norm and its sum, outside which the next activation is constant.
    """

    step: int
    weight: str
    bias: str | None
    norm: Norm | None
    sum: Sum | None
    rectified: tuple[float, float] | None

    @property
    def shifts(self) -> bool:
        """True if a constant can be added to the layer's output."""
        return self.bias is not None or self.norm is not None


@dataclass(frozen=True)
class Left:
    """A layer that stays as it was cut, with the reason."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Layers:
    """The layers to fit, the layers to leave, and the batch norms of a network."""

    fits: tuple[Fit, ...]
    left: tuple[Left, ...]
    norms: tuple[Norm, ...]


def layers_of(walked: Walk, steps: list[Step], slices: Any, skipped: frozenset[int]) -> Layers:
    """Layers to fit, in the order of execution, and layers to leave; steps ``skipped`` do not run in the student."""
    return _Search(walked, steps, slices).layers(skipped)


RECTIFIERS: dict[str, Callable[[Operation], tuple[float, float] | None]] = {
    "relu": lambda operation: (0.0, float("inf")),
    "relu6": lambda operation: (0.0, 6.0),
    "hardtanh": lambda operation: (
        (float(operation.args[1]), float(operation.args[2])) if len(operation.args) > 2 else (-1.0, 1.0)
    ),
    "hardswish": lambda operation: (-3.0, float("inf")),
    "hardsigmoid": lambda operation: (-3.0, 3.0),
}
"""Activations that are constant outside a range: there only the side of a value matters."""

PASSES = (*DROPOUTS, "drop_path", "clone", "contiguous", "alias", "detach")
"""Operators that return their input unchanged in evaluation mode."""
RESHAPES = ("view", "_unsafe_view", "reshape", "_reshape_alias")
FITTED = ("convolution", "linear")
NOT_FITTED = {
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "a recurrent layer"),
    **dict.fromkeys(("addmm", "mm", "baddbmm", "addmv", "mv"), "a matrix product outside a layer"),
}
"""Operators with weights of their own that are not fitted."""


class _Search:
    """A search through the steps.

    ``exact``: the tensors, up to the current step, whose remaining channels have the teacher's values.
    """

    def __init__(self, walked: Walk, steps: list[Step], slices: Any) -> None:
        self.walked, self.steps = walked, steps
        self.names = walked.recording.names
        self.remaining = walked.remaining(slices)
        self.own = {id(tensor) for tensor in walked.recording.tensors}
        self.readers: dict[int, list[int]] = {}
        self.makers: dict[int, list[int]] = {}
        for number, step in enumerate(steps):
            operation = step.operation
            for tensor in tensors_in([operation.args, operation.kwargs]):
                self.readers.setdefault(id(tensor), []).append(number)
            for tensor in operation.outputs:
                self.makers.setdefault(id(tensor), []).append(number)
        self.exact = {id(tensor) for tensor in walked.recording.inputs}

    def layers(self, skipped: frozenset[int]) -> Layers:
        fits: list[Fit] = []
        left: list[Left] = []
        norms: list[Norm] = []
        for number, step in enumerate(self.steps):
            operation = step.operation
            name = None if number in skipped else self._weight_of(operation)
            if name is not None and self._differs(number, operation):
                reason = self._why_left(operation, name)
                if reason is None:
                    fits.append(self._fit(number, name))
                else:
                    left.append(Left(name, reason))
            norm = self._norm(number)
            if norm is not None and number not in skipped:
                norms.append(norm)
            self._note_exact(operation)
        return Layers(tuple(fits), tuple(dict.fromkeys(left)), tuple(norms))

    # ------------------------------------------------------------------ what differs

    def _inputs(self, operation: Operation) -> list[Tensor]:
        """The inputs of an operation that are neither tensors of the network nor constants."""
        constants = self.walked.recording.constants
        arguments = tensors_in([operation.args, operation.kwargs])
        return [tensor for tensor in arguments if id(tensor) not in self.own and id(tensor) not in constants]

    def _differs(self, number: int, operation: Operation) -> bool:
        """True if its input has other values or fewer channels than in the teacher, or its sum has drifted."""
        inputs = self._inputs(operation)
        if any(id(tensor) not in self.exact or self.remaining.touches(tensor) for tensor in inputs):
            return True
        return operation.operator in FITTED and self._sum(number) is not None

    def _note_exact(self, operation: Operation) -> None:
        inputs = self._inputs(operation)
        if not all(id(tensor) in self.exact for tensor in inputs):
            self.exact.difference_update(id(tensor) for tensor in operation.outputs)
            return
        mixes = operation.operator in SUMS_OVER or (
            operation.operator in OVER_CHANNELS and operation.operator not in BATCH_NORMS
        )
        if mixes and any(self.remaining.touches(tensor) for tensor in inputs):
            return
        self.exact.update(id(tensor) for tensor in operation.outputs)

    # ------------------------------------------------------------------ one layer

    def _weight_of(self, operation: Operation) -> str | None:
        """The name of the weight of an operator that has one; a computed weight is named after its module."""
        if operation.operator in FITTED:
            weight = operation.args[1]
            return self.names.get(id(weight)) or f"{operation.module}.weight"
        if operation.operator in NOT_FITTED:
            for tensor in tensors_in(operation.args):
                if id(tensor) in self.own and tensor.dim() > 1:
                    return self.names[id(tensor)]
        return None

    def _why_left(self, operation: Operation, name: str) -> str | None:
        if operation.operator in NOT_FITTED:
            return NOT_FITTED[operation.operator]
        weight, bias = operation.args[1:3]
        if id(weight) not in self.own:
            return "its weight is computed from others"
        uses = len(self.readers[id(weight)])
        if uses > 1:
            return f"its weight is used {uses} times"
        if isinstance(bias, Tensor) and id(bias) not in self.own:
            return "its bias is computed from others"
        if isinstance(bias, Tensor) and len(self.readers[id(bias)]) > 1:
            return f"its bias is used {len(self.readers[id(bias)])} times"
        if not weight.is_floating_point():
            return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
        return None

    def _fit(self, number: int, name: str) -> Fit:
        operation = self.steps[number].operation
        bias = operation.args[2]
        norm = self._norm_behind(number)
        summed = self._sum(number)
        return Fit(
            number,
            name,
            self.names[id(bias)] if isinstance(bias, Tensor) else None,
            norm,
            summed,
            self._rectified(number, norm, summed),
        )

    def _norm(self, number: int) -> Norm | None:
        """The batch norm of this step, if no other step uses its tensors."""
        operation = self.steps[number].operation
        if operation.operator not in BATCH_NORMS:
            return None
        _, mean, variance, weight, bias, training, _, epsilon = operation.args
        own = [tensor for tensor in (mean, variance, weight, bias) if isinstance(tensor, Tensor)]
        if training or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return None
        if any(id(tensor) not in self.own or len(self.readers[id(tensor)]) > 1 for tensor in own):
            return None

        def name(tensor: Any) -> str | None:
            return self.names[id(tensor)] if isinstance(tensor, Tensor) else None

        return Norm(
            number, self.names[id(mean)], self.names[id(variance)], name(weight), name(bias), float(epsilon)
        )

    def _readers(self, out: Tensor, made: int) -> list[int]:
        """The steps that read a value as step ``made`` left it; the last of them may overwrite it."""
        until = min((number for number in self.makers[id(out)] if number > made), default=len(self.steps))
        return sorted({number for number in self.readers.get(id(out), []) if made < number <= until})

    def _only_reader(self, out: Tensor, made: int) -> int | None:
        """The only step that reads a value as step ``made`` left it; None if there are several or none."""
        readers = self._readers(out, made)
        if len(readers) != 1:
            return None
        over = readers[0] in self.makers[id(out)]
        returned = any(out is output for output in self.walked.recording.outputs)
        return readers[0] if over or not returned else None

    def _norm_behind(self, number: int) -> Norm | None:
        out = self.steps[number].operation.outputs[0]
        reader = self._only_reader(out, number)
        if reader is None or self.steps[reader].operation.args[0] is not out:
            return None
        return self._norm(reader)

    def _sum(self, number: int) -> Sum | None:
        """The sum that is the only use of a layer's output, if its other part has drifted."""
        out = self.steps[number].operation.outputs[0]
        way: list[Behind] = []
        at = number
        while True:
            reader = self._only_reader(out, at)
            if reader is None:
                return None
            operation = self.steps[reader].operation
            if operation.operator in ("add", "add_"):
                return self._drifted(number, reader, out, tuple(way))
            behind = self._behind(reader, out)
            if behind is None:
                return None
            way.append(behind)
            out, at = operation.outputs[0], reader

    def _behind(self, reader: int, out: Tensor) -> Behind | None:
        operation = self.steps[reader].operation
        operator = operation.operator
        if not operation.args or (operation.args[0] is not out and operator != "mul"):
            return None
        if operator in BATCH_NORMS:
            norm = self._norm(reader)
            return None if norm is None else Behind(reader, "norm", norm=norm)
        if operator in PASSES:
            return Behind(reader, "pass")
        if operator in ("permute", "transpose") or operator in RESHAPES:
            return Behind(reader, "reshape" if operator in RESHAPES else "permute")
        if operator == "mul":
            factors = [arg for arg in operation.args[:2] if isinstance(arg, Tensor) and arg is not out]
            if len(factors) == 1 and id(factors[0]) in self.own:
                return Behind(reader, "scale", scale=self.names[id(factors[0])])
        return None

    def _drifted(self, number: int, reader: int, out: Tensor, way: tuple[Behind, ...]) -> Sum | None:
        operation = self.steps[reader].operation
        one, two = operation.args[:2]
        if not (isinstance(one, Tensor) and isinstance(two, Tensor)) or operation.kwargs.get("alpha", 1) != 1:
            return None
        other = two if one is out else one
        makers = [maker for maker in self.makers.get(id(other), []) if maker < reader]
        there = bool(makers) and max(makers) < number
        if other is out or other.shape != out.shape or not there or id(other) in self.exact:
            return None
        return Sum(other, way)

    def _rectified(self, number: int, norm: Norm | None, summed: Sum | None) -> tuple[float, float] | None:
        """The range of the activation, if that is next; after a sum only if the fit corrects the sum's drift."""
        operation = self.steps[number].operation
        at, out = number, operation.outputs[0]
        if norm is not None:
            at, out = norm.step, self.steps[norm.step].operation.outputs[0]
        reader = self._only_reader(out, at)
        if reader is not None and self.steps[reader].operation.operator in ("add", "add_"):
            if summed is None or any(behind.kind != "norm" for behind in summed.way):
                return None
            at, out = reader, self.steps[reader].operation.outputs[0]
        readers = self._readers(out, at)
        if len(readers) != 1:
            return None
        activation = self.steps[readers[0]].operation
        range_of = RECTIFIERS.get(activation.operator.removesuffix("_"))
        return range_of(activation) if range_of is not None and activation.args[0] is out else None


def at_kept(tensor: Tensor, dims: dict[int, NDArray[np.bool_]]) -> Tensor:
    """The remaining channels of one of the teacher's values."""
    for dim, kept in dims.items():
        tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(kept)).to(tensor.device))
    return tensor
