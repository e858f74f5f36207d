"""From a network to its channel graph: walk it, then gather the units that live in the same slots into groups."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from compressor.pruning.graph.channels import ChannelGraph, Factor, Group, Layer, ParameterSize, Slot
from compressor.pruning.graph.groups import Members
from compressor.pruning.graph.labelled import Walk, walk
from compressor.pruning.graph.recording.example import Given, describe, inputs_of
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.graph.rules.flow import Flow, Multiply


def trace(network: nn.Module, inputs: Given, *, whole_heads: bool = False) -> ChannelGraph:
    """The channel graph of ``network``: channels that must go together, channels that may not go, and costs by size.

    ``inputs`` is one example: a tensor, a tuple of arguments or a dictionary of keyword arguments; only shapes are
    read. The network is not changed. By default attention loses width inside every head; with ``whole_heads`` it
    loses heads.
    """
    example = inputs_of(inputs)
    with _without_collection():
        walked = walk(network, example, whole_heads=whole_heads)
        first = example.tensors[0].shape
        return _graph(
            walked, {**describe(example), "whole_heads": whole_heads}, batch=first[0] if first else 1
        )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Thousands of small objects come and go here in milliseconds; looking for cycles among them doubles that."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _graph(walked: Walk, inputs: object, *, batch: int) -> ChannelGraph:
    flow, classes = walked.flow, walked.classes
    members = Members(flow, classes)
    produced = members.axes_of([each.sizes[0] for each in flow.multiplies if each.makes])
    groups: list[Group] = []
    frozen: list[Group] = []
    taken: dict[str, int] = {}
    for units in members.alike():
        slots = tuple(Slot(*flow.ledger.axes[axis], indices) for axis, indices in units.slots)
        made = tuple(slot for slot, (axis, _) in zip(slots, units.slots, strict=True) if axis in produced)
        reason = units.reason
        if reason is None and not made:
            reason = "no layer produces it"
        if reason is None and len(units.roots) == 1:
            reason = "a single unit cannot be cut to none"
        if reason is not None and not made:
            continue
        name = _unique((made or slots)[0].tensor, taken)
        group = Group(name, len(units.roots), slots, made, reason)
        if reason is None:
            members.assign(units)
            groups.append(group)
        else:
            frozen.append(group)
    return ChannelGraph(
        groups=tuple(groups),
        frozen=tuple(frozen),
        layers=tuple(_layer(each, members, flow, batch) for each in flow.multiplies),
        parameters=tuple(
            ParameterSize(
                name,
                tuple(
                    Factor(size) if axis is None else members.factor_of_axis(axis)
                    for axis, size in members.axes_of_tensor(name, shape)
                ),
            )
            for name, shape in walked.recording.parameters.items()
        ),
        shapes=dict(flow.shapes),
        blocks=dict(flow.blocks),
        unsupported=tuple(dict.fromkeys(flow.unsupported)),
        inputs=inputs,
    )


def _layer(multiply: Multiply, members: Members, flow: Flow, batch: int) -> Layer:
    operation, positions = multiply.operation, multiply.positions
    if not all(flow.is_own(tensor) for tensor in tensors_in(operation.args)) and not positions % batch:
        positions //= batch  # of what depends on the input: the cost is that of one sample
    written, *others = [members.factors(size) for size in multiply.sizes]
    factors = (*written, *(factor for each in others for factor in each))
    return Layer(operation.module, multiply.kind, positions, factors, len(written))


def _unique(tensor: str, taken: dict[str, int]) -> str:
    """The module path of a tensor; a second group from the same module gets a number."""
    path = tensor.rpartition(".")[0] or tensor
    taken[path] = taken.get(path, 0) + 1
    return path if taken[path] == 1 else f"{path}#{taken[path]}"
