"""From a network to its labelled recording: run it once on shapes, apply every rule, solve who belongs together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compressor.errors import CompressError
from compressor.pruning.graph.channels import Unsupported
from compressor.pruning.graph.recording.example import Inputs
from compressor.pruning.graph.recording.operation import Operation, Recording
from compressor.pruning.graph.recording.record import record
from compressor.pruning.graph.rules.flow import Flow, leave_whole
from compressor.pruning.graph.rules.labels import Ids
from compressor.pruning.graph.rules.table import DROPOUTS, RANDOM, RULES, pointwise, rule_of

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Remaining:
    """The part of every tensor of a recording that stays, by its labels."""

    flow: Flow
    alive: Bools

    def kept(self, tensor: Any, dim: int) -> Bools | None:
        """True for the indices along a dimension that stay; None if it has no channels."""
        ids = self.flow.of(tensor).get(dim)
        return None if ids is None else self.of(ids)

    def of(self, ids: Ids) -> Bools:
        """True for the labels that stay."""
        stays: Bools = self.alive[ids]
        return stays if stays.ndim == 1 else np.logical_and.reduce(stays, axis=1)

    def size(self, tensor: Any, dim: int) -> int:
        """The size of a dimension in the student."""
        kept = self.kept(tensor, dim)
        return int(tensor.shape[dim]) if kept is None else int(kept.sum())

    def kept_along(self, tensor: Any) -> dict[int, Bools]:
        """For every dimension of a tensor that loses an index: which indices stay."""
        along = {dim: self.of(ids) for dim, ids in self.flow.of(tensor).items()}
        return {dim: kept for dim, kept in along.items() if not kept.all()}

    def shape(self, tensor: Any) -> list[int]:
        """The shape in the student."""
        return [self.size(tensor, dim) for dim in range(tensor.dim())]

    def touches(self, tensor: Any) -> bool:
        """True if any dimension loses an index."""
        return any(not self.of(ids).all() for ids in self.flow.of(tensor).values())


@dataclass(frozen=True)
class Walk:
    """A recording with the labels of all its tensors, and the class of every atom."""

    recording: Recording
    flow: Flow
    classes: Ids

    def remaining(self, slices: Mapping[str, Mapping[int, tuple[int, ...]]]) -> Remaining:
        """The part of every tensor that stays if only these indices of the network's own tensors stay."""
        gone = np.zeros(len(self.classes), dtype=bool)
        ledger = self.flow.ledger
        for number, (tensor, axis) in enumerate(ledger.axes):
            kept = slices.get(tensor, {}).get(axis) if tensor else None
            if kept is not None:
                atoms = np.arange(ledger.starts[number], ledger.starts[number + 1])
                gone[self.classes[np.delete(atoms, list(kept))]] = True
        return Remaining(self.flow, ~gone[self.classes])


def walk(network: nn.Module, inputs: Inputs, *, whole_heads: bool = False) -> Walk:
    """Record the network and let labels flow through what was recorded."""
    recording = record(network, inputs, known=_known())
    flow = _flow(recording, frozenset())
    classes = flow.ledger.classes()
    if whole_heads:
        inside = {classes[ids].tobytes() for ids in flow.inside_heads}
        heads = {position for position, ids in flow.splits if classes[ids].tobytes() in inside}
        flow = _flow(recording, frozenset(heads))
        classes = flow.ledger.classes()
    return Walk(recording, flow, classes)


def _known() -> frozenset[str]:
    # Looked up each time, because users add rules.
    return frozenset([*RULES, *(f"{name}_" for name in RULES)])


def _flow(recording: Recording, heads: frozenset[int]) -> Flow:
    flow = Flow(recording, heads)
    for position, operation in enumerate(recording.operations):
        rule = rule_of(operation.operator)
        flow.position = position
        if rule is None or (operation.operator in DROPOUTS and operation.args[2]):
            _refuse_if_random(operation)
            flow.unsupported.append(Unsupported(operation.module, operation.operator, operation.line))
            leave_whole(flow, operation)
            continue
        if operation.operator[-1] == "_":
            _refuse_if_it_changes_weights(flow, operation)
            flow.written[id(operation.outputs[0])] = position
        rule(flow, operation)
        flow.note_own(operation)
    for output in recording.outputs:
        flow.freeze(output, "the network's output")
    _training_too(flow, len(recording.operations))
    return flow


def _training_too(flow: Flow, position: int) -> None:
    """Layers that only training runs stay as wide as what they read. They cost nothing, and may draw and write."""
    operations, outputs = flow.recording.training
    costs = len(flow.multiplies)
    for number, operation in enumerate(operations):
        flow.position = position + number
        random = operation.operator.removesuffix("_") in RANDOM
        rule = pointwise if random else rule_of(operation.operator) or leave_whole
        rule(flow, operation)
    for output in outputs:
        flow.freeze(output, "the network's output while it is trained")
    del flow.multiplies[costs:]


def _place(operation: Operation) -> str:
    where = f"in `{operation.module}`" if operation.module else "in its forward pass"
    return where + (f" ({operation.line})" if operation.line else "")


def _refuse_if_random(operation: Operation) -> None:
    if operation.operator.removesuffix("_") in RANDOM or operation.operator in DROPOUTS:
        raise CompressError(
            f"the network draws random numbers in evaluation mode: `{operation.operator}` {_place(operation)}",
            "make it depend on `self.training`, so that an output can be compared with another",
        )


def _refuse_if_it_changes_weights(flow: Flow, operation: Operation) -> None:
    name = flow.name_of(operation.outputs[0])
    if name is not None and operation.outputs[0].dim():
        raise CompressError(
            f"the network changes its own `{name}` while it runs: `{operation.operator}` {_place(operation)}",
            "work on a copy of it (`.clone()`), or do it in training mode only",
        )
