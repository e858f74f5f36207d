"""Look at a network before cutting it: its channel groups, what each costs, what stays whole and why."""

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
from compressor.pruning.widths.allocate import step_of
from compressor.recipe import ModelRecipe
from compressor.recipe.budget import Budget
from compressor.run.report.report_rows import percent, short


@dataclass(frozen=True)
class Inspection:
    """A channel graph; for every group and cost the price of one unit at full width, and the share of the whole
    that would go with all units but one (what two groups share is in the share of both)."""

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
    """Trace the network that a name means, and price its groups."""
    subject = resolve(model, classes, shape)
    if subject.network is None:
        raise UsageError(f"`{model.name}` is an ONNX file", "channel groups are those of a PyTorch network")
    graph = trace(subject.network, torch.zeros(1, *subject.shape))
    full = full_widths(graph)
    prices: dict[str, dict[str, int]] = {group.name: {} for group in graph.groups}
    shares: dict[str, dict[str, float]] = {group.name: {} for group in graph.groups}
    costs = costs_of(graph)
    totals = {name: cost.of(full) for name, cost in costs.items()}
    for number, group in enumerate(graph.groups):
        alone = np.eye(len(full), dtype=np.int64)[number]
        for name, cost in costs.items():
            prices[group.name][name] = totals[name] - cost.of(full - alone)
            shares[group.name][name] = 1 - cost.of(full - alone * (group.units - 1)) / totals[name]
    return Inspection(model.name, subject.shape, graph, totals, prices, shares)


def print_inspection(found: Inspection, console: Console) -> None:
    """Groups as a table, then what is left whole."""
    graph = found.graph
    console.print(
        f"{found.name} on {'×'.join(str(size) for size in found.shape)}: {short(found.totals['macs'])} MACs, "
        f"{short(found.totals['params'])} parameters, {len(graph.groups)} groups can be cut"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group", no_wrap=True)
    for head in ("units", "step", "layers", "MACs/unit", "of all", "params/unit", "of all"):
        table.add_column(head, justify="right")
    for group in graph.groups:
        price = found.prices[group.name]
        table.add_row(
            group.name,
            str(group.units),
            str(step_of(group, Budget())),
            str(len({slot.tensor.rpartition(".")[0] for slot in group.slots})),
            short(price["macs"]),
            percent(found.shares[group.name]["macs"]),
            short(price["params"]),
            percent(found.shares[group.name]["params"]),
        )
    # As wide as it needs: in a narrow terminal a wrapped line is readable, a column cut to `uni…` is not.
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
