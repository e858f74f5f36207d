"""Constant outputs of removed channels, folded into the bias of the layer that would have read them.

A channel behind a batch norm has a resting value: what its bias gives after the activation, when nothing moves the
norm. Cutting the channel replaces that by zero. Where the reader is a linear layer, a 1 × 1 convolution or any
convolution without padding, the resting value adds the same number everywhere, so that it can go into the reader's
bias, or into the mean of the norm behind it. With padding it would differ at the border, and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.models.copying import copy_with, named_tensors
from compressor.pruning.graph.labelled import Remaining, Walk, walk
from compressor.pruning.graph.recording.example import from_description, random_like
from compressor.pruning.graph.recording.operation import Operation, tensors_in
from compressor.pruning.graph.recording.replay import replay
from compressor.pruning.widths.plan import Plan

FLAT = 1e-12
"""Largest variation over space and samples, relative to the value, at which it counts as a constant in float64."""


def fold_constants(network: nn.Module, student: nn.Module, plan: Plan) -> nn.Module:
    """The freshly cut ``student`` with the resting values of what ``plan`` removed from ``network`` in its biases."""
    if plan.inputs is None or plan.earlier is not None:
        raise CompressError(
            "constants are folded right after one cut, and this plan is made of several",
            "fold after each of them",
        )
    wide = copy_with(network, lambda name, t: t.detach().cpu().double() if t.is_floating_point() else t.cpu())
    walked = walk(wide, from_description(plan.inputs), whole_heads=plan.whole_heads)
    tensors = named_tensors(wide)
    folded = copy_with(student, lambda name, tensor: tensor.detach().clone())
    own = named_tensors(folded)
    for number, constants in resting(walked, plan.slices, tensors).items():
        operation = walked.recording.operations[number]
        weight = tensors[walked.recording.names[id(operation.args[1])]]
        moved = weight.flatten(2).sum(2) @ constants if weight.dim() > 2 else weight @ constants
        place = _target(walked, number)
        assert place is not None
        target, sign = place
        kept = plan.slices.get(target, {}).get(0)
        moved = moved if kept is None else moved[list(kept)]
        with torch.no_grad():
            own[target].add_(sign * moved.to(own[target].device, own[target].dtype))
    return folded


def resting(
    walked: Walk, slices: Mapping[str, Mapping[int, tuple[int, ...]]], tensors: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """For every operation that can take them: the resting values in what it reads, zero for what stays."""
    remaining = walked.remaining(slices)
    first, second = (_AtRest(walked, remaining) for _ in range(2))
    for seed, rest in enumerate((first, second)):
        many = len(walked.recording.inputs)
        inputs = [
            random_like(meta, seed * many + place) for place, meta in enumerate(walked.recording.inputs)
        ]
        with torch.no_grad():
            replay(walked.recording, tensors, inputs, rest)
    constants: dict[int, Tensor] = {}
    for number in first.found.keys() & second.found.keys():
        one, other = first.found[number], second.found[number]
        # What is flat over one image may still depend on the image.
        flat = torch.where((one - other).abs() <= FLAT * (1 + one.abs()), one, torch.zeros_like(one))
        if flat.any():
            constants[number] = flat
    return constants


class _AtRest:
    """Runs a recording with nothing coming into what is removed, and notes what it says nevertheless."""

    def __init__(self, walked: Walk, remaining: Remaining) -> None:
        self.walked, self.remaining = walked, remaining
        self.found: dict[int, Tensor] = {}

    def __call__(
        self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if operation.operator in ("convolution", "linear"):
            self._look(operation, number, args[0])
            axis = 1 if operation.operator == "convolution" and operation.args[6] else 0
            args = (args[0], self._quiet(operation.args[1], args[1], axis), *args[2:])
        elif operation.operator == "batch_norm" and args[3] is not None:
            args = (*args[:3], self._quiet(operation.args[3], args[3], 0), *args[4:])
        return operation.function(*args, **kwargs)

    def _quiet(self, meta: Tensor, real: Tensor, axis: int) -> Tensor:
        kept = self.remaining.kept(meta, axis)
        if kept is None or kept.all():
            return real
        shape = [-1 if dim == axis else 1 for dim in range(real.dim())]
        return real * torch.from_numpy(kept).view(shape)

    def _look(self, operation: Operation, number: int, x: Tensor) -> None:
        dim = 1 if operation.operator == "convolution" else x.dim() - 1
        kept = self.remaining.kept(operation.args[0], dim)
        if (
            kept is None
            or kept.all()
            or not _takes_constants(operation)
            or _target(self.walked, number) is None
        ):
            return
        values = x.movedim(dim, 0).flatten(1)
        low, high = values.min(dim=1).values, values.max(dim=1).values
        flat = ((high - low) <= FLAT * (1 + high.abs())) & torch.from_numpy(~kept)
        if flat.any() and (high[flat] != 0).any():
            self.found[number] = torch.where(flat, high, torch.zeros_like(high))


def _takes_constants(operation: Operation) -> bool:
    if operation.operator == "linear":
        return True
    _, _, _, _, padding, _, transposed, _, groups = operation.args
    return groups == 1 and not transposed and not any(padding)


def _target(walked: Walk, number: int) -> tuple[str, float] | None:
    """The tensor that takes the constants of an operation: its bias, or the mean of the only norm that reads it."""
    operations, names = walked.recording.operations, walked.recording.names
    operation = operations[number]
    weight, bias = operation.args[1:3]
    uses = sum(any(tensor is weight for tensor in tensors_in(each.args)) for each in operations)
    if uses != 1 or id(weight) not in names:
        return None
    if isinstance(bias, Tensor):
        return (names[id(bias)], 1.0) if id(bias) in names else None
    out = operation.outputs[0]
    readers = [each for each in operations if any(tensor is out for tensor in tensors_in(each.args))]
    if len(readers) != 1 or readers[0].operator != "batch_norm" or readers[0].args[0] is not out:
        return None
    mean = readers[0].args[1]
    single = sum(any(tensor is mean for tensor in tensors_in(each.args)) for each in operations) == 1
    return (names[id(mean)], -1.0) if single and id(mean) in names else None
