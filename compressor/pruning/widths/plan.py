"""Plan: the indices of the channels that stay, per tensor and axis, so that a plan is valid without its graph.

A plan can be saved as JSON. Two plans compose: ``inner.after(outer)`` is the plan that does both, and
``student.within(assistant)`` is the plan that cuts the assistant to a student it contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np

from compressor.errors import CompressError
from compressor.pruning.graph.channels import ChannelGraph

Kept = tuple[int, ...]
Slices = Mapping[str, Mapping[int, Kept]]


@dataclass(frozen=True)
class Plan:
    """The indices kept of every tensor that is cut: ``slices[tensor][axis]``.

    ``blocks``: the number of remaining blocks of each grouped convolution and norm whose blocks were cut; ``inputs``
    describes the example that the network was traced with. For the report: ``widths``, group -> (units before,
    units kept), and ``costs``, cost -> (before, after). ``earlier``: the first part of a plan that was made in several
    steps; the network after it may allow cuts that the network before it did not.
    """

    slices: Slices
    blocks: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    costs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    inputs: Any = None
    earlier: Plan | None = field(default=None, compare=False)

    @property
    def whole_heads(self) -> bool:
        """True if the graph of this plan allows the removal of whole attention heads."""
        return bool(self.inputs and self.inputs.get("whole_heads"))

    def removed(self, cost: str) -> float:
        """The share of this cost that is removed."""
        before, after = self.costs[cost]
        return 1 - after / before

    def after(self, first: Plan) -> Plan:
        """The plan that applies ``first`` and then this one, for the network before both."""
        slices = {name: dict(axes) for name, axes in first.slices.items()}
        for name, axes in self.slices.items():
            for axis, kept in axes.items():
                before = slices.setdefault(name, {}).get(axis)
                slices[name][axis] = kept if before is None else tuple(before[i] for i in kept)
        widths = dict(first.widths)
        for name, (units, kept_units) in self.widths.items():
            widths[name] = (widths.get(name, (units, units))[0], kept_units)
        costs = {name: (first.costs.get(name, pair)[0], pair[1]) for name, pair in self.costs.items()}
        return Plan(
            slices,
            {**first.blocks, **self.blocks},
            widths,
            costs,
            first.inputs or self.inputs,
            earlier=(self.earlier.after(first) if self.earlier else first) if first.slices else self.earlier,
        )

    def within(self, larger: Plan) -> Plan:
        """The plan that cuts the result of ``larger`` to the result of this plan."""
        for name, outer_axes in larger.slices.items():
            if not outer_axes.keys() <= self.slices.get(name, {}).keys():
                raise CompressError(
                    f"cannot cut `{name}`: the smaller plan keeps what the larger one removes"
                )
        slices: dict[str, dict[int, Kept]] = {}
        for name, axes in self.slices.items():
            for axis, kept in axes.items():
                outer = larger.slices.get(name, {}).get(axis)
                slices.setdefault(name, {})[axis] = kept if outer is None else _positions(name, kept, outer)
        widths = {
            name: (larger.widths.get(name, (units, units))[1], kept)
            for name, (units, kept) in self.widths.items()
        }
        costs = {
            name: (larger.costs.get(name, (0, pair[0]))[1], pair[1]) for name, pair in self.costs.items()
        }
        return Plan(slices, dict(self.blocks), widths, costs, self.inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "costs": {name: list(pair) for name, pair in self.costs.items()},
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "blocks": dict(self.blocks),
            "inputs": self.inputs,
            "earlier": self.earlier and self.earlier.to_dict(),
            "slices": {
                name: {str(axis): list(kept) for axis, kept in axes.items()}
                for name, axes in self.slices.items()
            },
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        return Plan(
            slices={
                name: {int(axis): tuple(map(index, kept)) for axis, kept in axes.items()}
                for name, axes in value["slices"].items()
            },
            blocks=dict(value["blocks"]),
            widths={name: (pair[0], pair[1]) for name, pair in value["widths"].items()},
            costs={name: (pair[0], pair[1]) for name, pair in value["costs"].items()},
            inputs=value["inputs"],
            earlier=Plan.from_dict(value["earlier"]) if value["earlier"] else None,
        )


def plan_keeping(graph: ChannelGraph, kept_units: Mapping[str, Kept]) -> Plan:
    """The plan that keeps these units of these groups, and every unit of all other groups."""
    slices: dict[str, dict[int, Kept]] = {}
    removed: dict[tuple[str, int], list[int]] = {}
    widths: dict[str, tuple[int, int]] = {}
    for group in graph.groups:
        keep = kept_units.get(group.name)
        widths[group.name] = (group.units, group.units if keep is None else len(keep))
        if keep is None or len(keep) == group.units:
            continue
        if not keep:
            raise CompressError(
                f"cannot cut `{group.name}`: {group.units} units, the plan keeps 0, at least 1 must stay"
            )
        gone = np.setdiff1d(np.arange(group.units), np.asarray(keep))
        for slot in group.slots:
            removed.setdefault((slot.tensor, slot.axis), []).extend(slot.indices[gone].ravel().tolist())
    for (tensor, axis), indices in removed.items():
        stay = np.setdiff1d(np.arange(graph.shapes[tensor][axis]), np.asarray(indices))
        slices.setdefault(tensor, {})[axis] = tuple(stay.tolist())
    blocks = {
        weight: number * len(slices[weight][0]) // graph.shapes[weight][0]
        for weight, number in graph.blocks.items()
        if 0 in slices.get(weight, {})
    }
    return Plan(slices, blocks, widths, inputs=graph.inputs)


def _positions(name: str, kept: Kept, outer: Kept) -> Kept:
    place = {index: position for position, index in enumerate(outer)}
    try:
        return tuple(place[index] for index in kept)
    except KeyError as missing:
        raise CompressError(
            f"cannot cut `{name}`: index {missing} is kept by the smaller plan and not by the larger"
        ) from None
