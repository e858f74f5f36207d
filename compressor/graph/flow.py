"""Labels on their way through a recording: what the rules read and write.

A rule sees one operation, reads the labels of its inputs, joins or freezes channels, and gives labels
to its outputs. This file holds what the rules share; the rules themselves are in ``rules.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from compressor.graph.channels import Unsupported
from compressor.graph.labels import Ids, Labels, Ledger
from compressor.graph.record import Operation, Recording

NOT_A_CHANNEL = ""
"""The reason for axes that never were channels (kernel height and width): frozen, and not worth a line."""


@dataclass(frozen=True)
class Multiply:
    """A multiplying operator as the rules saw it; a factor is an array of atoms or a fixed size."""

    module: str
    kind: str
    positions: int
    produced: Ids | int
    consumed: Ids | int


@dataclass
class Flow:
    """The state of one walk: labels by tensor, the ledger, and what was met on the way."""

    recording: Recording
    ledger: Ledger = field(default_factory=Ledger)
    multiplies: list[Multiply] = field(default_factory=list)
    block_convolutions: dict[str, int] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _labels: dict[int, Labels] = field(default_factory=dict)

    def of(self, tensor: Any) -> Labels:
        """The labels of a tensor; a parameter or buffer gets fresh ones when it is first met."""
        if not isinstance(tensor, Tensor):
            return {}
        name = self.recording.names.get(id(tensor))
        if id(tensor) not in self._labels and name is not None:
            shape = tuple(tensor.shape)
            self.shapes[name] = shape
            fresh = self.ledger.register(name, shape)
            # One index cannot be cut to none, and it broadcasts: it is no channel.
            self._labels[id(tensor)] = {axis: ids for axis, ids in fresh.items() if shape[axis] > 1}
        return self._labels.get(id(tensor), {})

    def give(self, tensor: Tensor, labels: Labels) -> None:
        """Set the labels of a result."""
        self._labels[id(tensor)] = labels

    def name_of(self, tensor: Any) -> str | None:
        """The parameter's or buffer's name, if the tensor is one."""
        return self.recording.names.get(id(tensor))

    def freeze(self, tensor: Any, reason: str, dims: tuple[int, ...] | None = None) -> None:
        """Forbid cutting what lies along these dimensions (all, if none are given)."""
        for dim, ids in self.of(tensor).items():
            if dims is None or dim in dims:
                self.ledger.freeze(ids, reason)

    def tie(self, one: Ids | None, other: Ids | None, reason: str) -> None:
        """Two dimensions that must stay equal: join them, or freeze the one that meets a fixed size."""
        if one is not None and other is not None:
            self.ledger.join(one, other)
        elif one is not None:
            self.ledger.freeze(one, reason)
        elif other is not None:
            self.ledger.freeze(other, reason)


def first_output(operation: Operation) -> Tensor:
    """The result that carries the channels; further results (saved statistics, indices) do not."""
    return operation.outputs[0]


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor among arguments, lists included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def leave_whole(flow: Flow, operation: Operation) -> None:
    """The rule of an operator without one: everything it touches is left whole."""
    where = f"`{operation.module}`" if operation.module else "the network itself"
    for tensor in tensors_in([operation.args, list(operation.kwargs.values())]):
        flow.freeze(tensor, f"no rule for the operator `{operation.operator}` in {where}")
