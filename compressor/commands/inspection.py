"""Inspect a network before pruning: its channel groups, their costs, and the reasons why some cannot be cut."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from compressor.commands.subjects import Shape, resolve
from compressor.errors import UsageError
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.allocate import granule_of
from compressor.recipe import ModelRecipe
from compressor.recipe.budget import Budget
from compressor.run.report.report_rows import percent, short


@dataclass(frozen=True)
class Inspection:
    """A channel graph with its costs.

    For every group and cost, ``prices``: cost of one unit at full width; ``shares``: share of the total cost that
    is removed with all units but one (a cost that two groups share is in the share of both).
    """

    name: str
    shape: Shape
    graph: ChannelGraph
    totals: dict[str, int]
    prices: dict[str, dict[str, int]]
    shares: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = self.graph.to_dict()
        for entry in value["groups"]:
            entry["per_unit"] = self.prices[entry["name"]]
            entry["share"] = self.shares[entry["name"]]
        return {"model": self.name, "shape": list(self.shape), "totals": self.totals, **value}


def inspected(model: ModelRecipe, classes: int | None, shape: Shape | None) -> Inspection:
    """Trace the network with this name, and compute the costs of its groups."""
    subject = resolve(model, classes, shape)
    if subject.network is None:
        raise UsageError(
            f"`{model.name}` is an ONNX file", "give a PyTorch network: only it has channel groups"
        )
    graph = trace(subject.network, torch.zeros(1, *subject.shape))
    full = full_widths(graph)
    # A unit's price is the difference of the costs with and without it, since costs are not linear in the widths.
    prices: dict[str, dict[str, int]] = {group.name: {} for group in graph.groups}
    shares: dict[str, dict[str, float]] = {group.name: {} for group in graph.groups}
    costs = costs_of(graph)
    totals = {name: cost.of(full) for name, cost in costs.items()}
    for number, group in enumerate(graph.groups):
        one_unit = np.eye(len(full), dtype=np.int64)[number]
        for name, cost in costs.items():
            prices[group.name][name] = totals[name] - cost.of(full - one_unit)
            shares[group.name][name] = 1 - cost.of(full - one_unit * (group.units - 1)) / totals[name]
    return Inspection(model.name, subject.shape, graph, totals, prices, shares)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the groups as a table, then the groups that cannot be cut."""
    graph = inspection.graph
    console.print(
        f"{inspection.name} on {'×'.join(str(size) for size in inspection.shape)}: "
        f"{short(inspection.totals['macs'])} MACs, {short(inspection.totals['params'])} parameters, "
        f"{len(graph.groups)} groups can be cut"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group", no_wrap=True)
    for head in ("units", "step", "layers", "MACs/unit", "of all", "params/unit", "of all"):
        table.add_column(head, justify="right")
    for group in graph.groups:
        price = inspection.prices[group.name]
        table.add_row(
            group.name,
            str(group.units),
            str(granule_of(group, Budget().granule)),
            str(len({slot.tensor.rpartition(".")[0] for slot in group.slots})),
            short(price["macs"]),
            percent(inspection.shares[group.name]["macs"]),
            short(price["params"]),
            percent(inspection.shares[group.name]["params"]),
        )
    # Full width: in a narrow terminal a wrapped line is readable, a column cut to `uni…` is not.
    table.width = Measurement.get(console, console.options.update(max_width=sys.maxsize), table).maximum
    console.print(table, crop=False)
    if graph.frozen:
        console.print("\nleft whole:", style="bold")
        for group in graph.frozen:
            console.print(f"  {group.name}: {group.units} units, {group.frozen}")
    if graph.unsupported:
        console.print("\noperators without a rule:", style="bold")
        for item in graph.unsupported:
            console.print(f"  {item.operator} in {item.where}", markup=False)
