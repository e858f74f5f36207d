"""Measures of layer outputs: gates on a layer's output, and the ranks of its maps.

A recording tells which operators produce the channels of a group, and along which dimension of their result, whether
they belong to a module or not. While the recording runs again on real tensors, a gate follows each of these operators:
it returns its input unchanged, and in the backward pass sums activation times gradient per image and channel. Neither
the network nor its hooks are changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressor.pruning.graph.labelled import Walk
from compressor.pruning.graph.recording.operation import VIEWS, Operation, tensors_in
from compressor.pruning.graph.rules.table import RULES, pointwise
from compressor.pruning.scoring.kernels.sums import Choice, gate_sums

Key = tuple[str, int]
"""An axis of a tensor: its name and the axis."""


@dataclass(frozen=True)
class ChannelOutput:
    """Channels that an operator produces: the weight axis they come from, and their dimension in its result."""

    key: Key
    dim: int


def made_by(walked: Walk, keys: set[Key]) -> dict[int, ChannelOutput]:
    """The operators that produce the channels of these axes, by operator number."""
    flow = walked.flow
    number_of = {id(operation): number for number, operation in enumerate(walked.recording.operations)}
    outputs: dict[int, ChannelOutput] = {}
    for multiply in flow.multiplies:
        ids = multiply.sizes[0]
        axis = None if isinstance(ids, int) else flow.ledger.axis_made_by(ids)
        if not multiply.makes or axis is None or flow.ledger.axes[axis] not in keys:
            continue
        labels = flow.of(multiply.operation.outputs[0])
        for dim in (dim for dim, own in labels.items() if own is ids):
            outputs[number_of[id(multiply.operation)]] = ChannelOutput(flow.ledger.axes[axis], dim)
    return outputs


def shown_by(walked: Walk, made: dict[int, ChannelOutput]) -> dict[int, ChannelOutput]:
    """The same channels as the next layer reads them: after the norm and the activation that follow directly."""
    return {_after_activation(walked, number): output for number, output in made.items()}


def _after_activation(walked: Walk, number: int) -> int:
    """The number of the last norm or activation that directly follows this operator."""
    operations = walked.recording.operations
    shown = operations[number].outputs[0]
    for later in range(number + 1, len(operations)):
        operation = operations[later]
        read = tensors_in([operation.args, operation.kwargs])
        if not any(tensor is shown for tensor in read):
            continue
        others = [tensor for tensor in read if tensor is not shown and not walked.flow.is_own(tensor)]
        rule = RULES.get(operation.operator) or RULES.get(operation.operator.removesuffix("_"))
        if others or (operation.operator != "batch_norm" and rule is not pointwise):
            break
        shown, number = operation.outputs[0], later
    return number


@dataclass(frozen=True)
class InPlace:
    """Run in-place operators without changing the tensors that a gate has saved.

    ``plainly``: the numbers of the in-place operators that can return a new tensor instead, because no view shares
    the memory. ``others``: True if there are in-place operators that cannot; then a gate returns a copy.
    """

    plainly: frozenset[int]
    others: bool

    @staticmethod
    def of(walked: Walk) -> InPlace:
        """Find both kinds of in-place operators in a recording."""
        viewed: set[int] = set()
        plainly: set[int] = set()
        others = False
        for number, operation in enumerate(walked.recording.operations):
            if operation.operator in VIEWS:
                viewed.update(id(tensor) for tensor in (*tensors_in(operation.args), *operation.outputs))
            elif operation.in_place:
                if _plain(operation) is None or id(operation.outputs[0]) in viewed:
                    others = True
                else:
                    plainly.add(number)
        return InPlace(frozenset(plainly), others)

    def run(self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result."""
        function = _plain(operation) if number in self.plainly else operation.function
        return function(*args, **kwargs)  # type: ignore[misc]


def _plain(operation: Operation) -> Callable[..., Any] | None:
    """The out-of-place form of an operator; None if it has none."""
    packet = getattr(torch.ops.aten, operation.operator.removesuffix("_"), None)
    overload = getattr(operation.function, "_overloadname", None)
    return getattr(packet, overload, None) if packet is not None and overload else None


@dataclass
class Gates:
    """A step of a replay that adds a gate after some operators. ``sums``: [images, channels] for each axis.

    ``fell_back``: the backend that computed the sums, and the reason, where the kernel was chosen and refused.
    """

    made: dict[int, ChannelOutput]
    images: int
    in_place: InPlace
    fell_back: Choice | None = None
    sums: dict[Key, Tensor] = field(default_factory=dict)

    def __call__(
        self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = self.in_place.run(operation, number, args, kwargs)
        made = self.made.get(number)
        if made is None:
            return result
        outputs = tensors_in(result)
        return [self._gated(outputs[0], made), *outputs[1:]]

    def _gated(self, output: Tensor, made: ChannelOutput) -> Tensor:
        if output.shape[0] % self.images:
            return output  # images are not the first dimension, so a row belongs to no known image
        handle = torch.zeros((), device=output.device, requires_grad=True)
        gated: Tensor = _Gate.apply(output, handle, lambda z, gradient: self._take(z, gradient, made))
        return gated.clone() if self.in_place.others else gated

    def _fall_back(self, choice: Choice) -> None:
        self.fell_back = choice

    def _take(self, output: Tensor, gradient: Tensor, made: ChannelOutput) -> None:
        rows = gate_sums(output, gradient, made.dim, fell_back=self._fall_back)
        sums = rows.double().view(self.images, -1, rows.shape[1]).sum(1)
        # A shared layer runs several times per image, but has one gate: add its parts before any square.
        self.sums[made.key] = sums if made.key not in self.sums else self.sums[made.key] + sums


class _Gate(torch.autograd.Function):
    """Return the input unchanged; in the backward pass, call a listener with the input and its gradient.

    The handle makes the gate part of every backward pass. The saved input is checked for in-place changes.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, handle: Tensor, listener: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(output)
        ctx.listener = listener
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.listener(ctx.saved_tensors[0], gradient)
        return gradient, None, None


@dataclass
class Ranks:
    """A step of a replay that computes the rank of every map that some operators return."""

    shown: dict[int, ChannelOutput]
    sums: dict[Key, Tensor] = field(default_factory=dict)

    def __call__(
        self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = operation.function(*args, **kwargs)
        shown = self.shown.get(number)
        if shown is not None:
            maps = tensors_in(result)[0]
            if shown.dim == 1 and maps.dim() == 4:  # only maps (images, channels, height, width) have a rank
                self.sums[shown.key] = torch.linalg.matrix_rank(maps.float()).double()
        return result
