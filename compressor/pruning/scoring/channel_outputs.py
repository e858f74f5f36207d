"""Measures that are taken where channels are made: gates on a layer's output, and the ranks of its maps.

A recording says which operators make the channels of a group and along which dimension of their result, whether they
belong to a module or not. While it runs again on real tensors, a gate is put behind each of them: it lets its input
pass, and in the backward pass sums activation times gradient per image and channel, as gradients arrive. Neither the
network nor its hooks are touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressor.pruning.graph.labelled import Walk
from compressor.pruning.graph.recording.operation import Operation, tensors_in
from compressor.pruning.graph.rules.table import RULES, pointwise
from compressor.pruning.scoring.kernels.sums import Choice, gate_sums

Key = tuple[str, int]
"""An axis of a tensor: its name and the axis."""

VIEWS = frozenset(
    """view _unsafe_view reshape slice select split split_with_sizes unbind permute transpose t expand squeeze
    unsqueeze alias detach""".split()
)
"""Operators whose result may be another look at the same memory."""


@dataclass(frozen=True)
class Made:
    """Channels that an operator makes: the axis they come from, and where they lie in its result."""

    key: Key
    dim: int


def made_by(walked: Walk, keys: set[Key]) -> dict[int, Made]:
    """The operators that make the channels of these axes, by their number."""
    flow = walked.flow
    number_of = {id(operation): number for number, operation in enumerate(walked.recording.operations)}
    found: dict[int, Made] = {}
    for multiply in flow.multiplies:
        ids = multiply.sizes[0]
        axis = None if isinstance(ids, int) else flow.ledger.axis_made_by(ids)
        if not multiply.makes or axis is None or flow.ledger.axes[axis] not in keys:
            continue
        labels = flow.of(multiply.operation.outputs[0])
        for dim in (dim for dim, own in labels.items() if own is ids):
            found[number_of[id(multiply.operation)]] = Made(flow.ledger.axes[axis], dim)
    return found


def shown_by(walked: Walk, made: dict[int, Made]) -> dict[int, Made]:
    """The same channels as the next layer sees them: behind the norm and the activation that follow at once."""
    return {_behind(walked, number): each for number, each in made.items()}


def _behind(walked: Walk, number: int) -> int:
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
    """How to run operators that write into what they read, so that what a gate has seen does not change.

    ``plainly``: the numbers of those that can as well give a new tensor, because nobody looks at the same memory.
    ``others``: whether there are any that cannot; then a gate hands on a copy.
    """

    plainly: frozenset[int]
    others: bool

    @staticmethod
    def of(walked: Walk) -> InPlace:
        """Both, for a recording."""
        viewed: set[int] = set()
        plainly: set[int] = set()
        others = False
        for number, operation in enumerate(walked.recording.operations):
            if operation.operator in VIEWS:
                viewed.update(id(tensor) for tensor in (*tensors_in(operation.args), *operation.outputs))
            elif operation.operator.endswith("_"):
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
    """The form of an operator that leaves what it reads as it is."""
    packet = getattr(torch.ops.aten, operation.operator.removesuffix("_"), None)
    overload = getattr(operation.function, "_overloadname", None)
    return getattr(packet, overload, None) if packet is not None and overload else None


@dataclass
class Gates:
    """A step of a replay that puts a gate behind some operators. ``sums``: [images, channels] for each axis.

    ``fell_back``: who did the sums, and why, where the kernel was chosen and refused.
    """

    made: dict[int, Made]
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

    def _gated(self, output: Tensor, made: Made) -> Tensor:
        if output.shape[0] % self.images:
            return output  # images do not come first here: whose gradient a row is cannot be told
        handle = torch.zeros((), device=output.device, requires_grad=True)
        gated: Tensor = _Gate.apply(output, handle, lambda z, gradient: self._take(z, gradient, made))
        return gated.clone() if self.in_place.others else gated

    def _fall_back(self, choice: Choice) -> None:
        self.fell_back = choice

    def _take(self, output: Tensor, gradient: Tensor, made: Made) -> None:
        rows = gate_sums(output, gradient, made.dim, fell_back=self._fall_back)
        sums = rows.double().view(self.images, -1, rows.shape[1]).sum(1)
        # A shared layer is used several times: an image's gate is one, so its parts are added before any square.
        self.sums[made.key] = sums if made.key not in self.sums else self.sums[made.key] + sums


class _Gate(torch.autograd.Function):
    """Passes its input on, and shows it with its gradient to a listener.

    The handle makes it a part of every backward pass. What is saved is checked: it must not have been written to.
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
    """A step of a replay that takes the rank of every map that some operators give out."""

    shown: dict[int, Made]
    sums: dict[Key, Tensor] = field(default_factory=dict)

    def __call__(
        self, operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = operation.function(*args, **kwargs)
        shown = self.shown.get(number)
        if shown is not None:
            maps = tensors_in(result)[0]
            if shown.dim == 1 and maps.dim() == 4:  # what is no map has no rank
                self.sums[shown.key] = torch.linalg.matrix_rank(maps.float()).double()
        return result
