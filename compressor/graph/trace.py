"""From a network to its channel graph: record, let labels flow, solve, gather units into groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from compressor.graph.channels import (
    ChannelGraph,
    Factor,
    Group,
    Layer,
    ParameterSize,
    Slot,
    Unsupported,
)
from compressor.graph.flow import NOT_A_CHANNEL, Flow, leave_whole
from compressor.graph.labels import Ids, Ledger
from compressor.graph.record import record
from compressor.graph.rules import RULES

FIXED_SIZES = (nn.MultiheadAttention, nn.RNNBase)
"""Modules whose forward compares or passes on sizes given at construction: their own weights stay whole."""


def trace(network: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> ChannelGraph:
    """Which channels of ``network`` must go together, which may not go, and what their sizes decide.

    ``inputs`` is one example (batch of one): only shapes are read. The network is not changed.
    """
    flow = Flow(record(network, inputs if isinstance(inputs, tuple) else (inputs,)))
    for operation in flow.recording.operations:
        rule = RULES.get(operation.operator)
        if rule is None:
            flow.unsupported.append(Unsupported(operation.module, operation.operator))
            rule = leave_whole
        rule(flow, operation)
    for tensor in flow.recording.tensors:
        owner = network.get_submodule((flow.name_of(tensor) or "").rpartition(".")[0])
        if isinstance(owner, FIXED_SIZES):
            flow.freeze(tensor, f"`{type(owner).__name__}` keeps its sizes to itself")
    for output in flow.recording.outputs:
        flow.freeze(output, "the network's output")
    return _solve(flow, network)


def _solve(flow: Flow, network: nn.Module) -> ChannelGraph:
    classes = flow.ledger.classes()
    axis_of, _ = flow.ledger.owners()
    produced = {
        flow.ledger.axes[axis_of[multiply.produced[0]]]
        for multiply in flow.multiplies
        if not isinstance(multiply.produced, int)
    }
    reasons = _reasons_by_class(flow.ledger, classes)
    groups: list[Group] = []
    frozen: list[Group] = []
    group_of: dict[int, int] = {}
    taken: dict[str, int] = {}
    for members, slots in _units_by_slots(flow.ledger, classes):
        reason = next((reasons[member] for member in members if member in reasons), None)
        if reason == NOT_A_CHANNEL:
            continue
        made = tuple(slot for slot in slots if (slot.tensor, slot.axis) in produced)
        if reason is None and not made:
            reason = "no layer produces it"
        if reason is None and len(members) == 1:
            reason = "a single unit cannot be cut to none"
        name = _unique((made or slots)[0].tensor, taken)
        group = Group(name, len(members), slots, made, reason)
        if reason is None:
            group_of.update(dict.fromkeys(members, len(groups)))
            groups.append(group)
        elif made:
            frozen.append(group)
    sizes = _Sizes(classes, group_of, [group.units for group in groups])
    return ChannelGraph(
        groups=tuple(groups),
        frozen=tuple(frozen),
        layers=tuple(
            Layer(
                multiply.module,
                multiply.kind,
                multiply.positions,
                (sizes.factor(multiply.produced), sizes.factor(multiply.consumed)),
            )
            for multiply in flow.multiplies
        ),
        parameters=_parameter_sizes(flow, network, sizes),
        shapes=dict(flow.shapes),
        block_convolutions=dict(flow.block_convolutions),
        unsupported=tuple(dict.fromkeys(flow.unsupported)),
    )


def _reasons_by_class(ledger: Ledger, classes: Ids) -> dict[int, str]:
    """Why a class may not go: a real reason wins over ``NOT_A_CHANNEL``, the first given over later ones."""
    reasons: dict[int, str] = {}
    for atom, reason in ledger.reasons.items():
        root = int(classes[atom])
        if not reasons.get(root):
            reasons[root] = reason
    return reasons


def _units_by_slots(ledger: Ledger, classes: Ids) -> Iterator[tuple[list[int], tuple[Slot, ...]]]:
    """Classes with the same slots, in the order of their first atom: these are the groups."""
    if not classes.size:
        return
    axis_of, index_of = ledger.owners()
    order = np.argsort(classes, kind="stable")
    roots, starts = np.unique(classes[order], return_index=True)
    alike: dict[bytes, list[tuple[int, Ids]]] = defaultdict(list)
    for root, atoms in zip(roots.tolist(), np.split(order, starts[1:]), strict=True):
        named = atoms[[bool(ledger.axes[axis][0]) for axis in axis_of[atoms]]]
        if named.size:
            alike[axis_of[named].tobytes()].append((root, named))
    for units in alike.values():
        atoms = np.stack([unit for _, unit in units])
        axes = axis_of[atoms[0]]
        slots = []
        for axis in np.unique(axes).tolist():
            tensor, dim = ledger.axes[axis]
            slots.append(Slot(tensor, dim, index_of[atoms[:, axes == axis]]))
        yield [root for root, _ in units], tuple(slots)


def _unique(tensor: str, taken: dict[str, int]) -> str:
    """The module path of a tensor; a second group from the same module gets a number."""
    path = tensor.rpartition(".")[0] or tensor
    taken[path] = taken.get(path, 0) + 1
    return path if taken[path] == 1 else f"{path}#{taken[path]}"


@dataclass(frozen=True)
class _Sizes:
    """Turns dimensions into sizes that follow the cut."""

    classes: Ids
    group_of: dict[int, int]
    units: list[int]

    def factor(self, ids: Ids | int) -> Factor:
        if isinstance(ids, int):
            return Factor(ids)
        members = Counter(self.group_of.get(root, -1) for root in self.classes[ids].tolist())
        constant = members.pop(-1, 0)
        return Factor(
            constant,
            tuple((group, count // self.units[group]) for group, count in sorted(members.items())),
        )


def _parameter_sizes(flow: Flow, network: nn.Module, sizes: _Sizes) -> tuple[ParameterSize, ...]:
    atoms = {
        axis: np.arange(flow.ledger.starts[number], flow.ledger.starts[number + 1])
        for number, axis in enumerate(flow.ledger.axes)
    }
    return tuple(
        ParameterSize(
            name,
            tuple(sizes.factor(atoms.get((name, axis), size)) for axis, size in enumerate(parameter.shape)),
        )
        for name, parameter in network.named_parameters()
    )
