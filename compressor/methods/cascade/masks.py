"""Channel masks during training: scores that move, and the threshold over them.

Every unit of the graph has a score in each network; the units with the lowest scores are masked. A score moves against
the derivative of a loss by the unit's mask m, and that loss is the one of the network's TEACHER (Miles and Mikolajczyk
2020, equation 4.5): γ_i ← γ_i − α · dL_{i+1}/dm. The teacher may still have the unit while it is masked here, so that
the unit can come back.

With the mask at the unit's consumers, dL/dm = Σ w · dL/dw over the weights that read the unit, which is what our
kernel sums. At this place a mask of 0 equals removal, also behind a norm: before a batch norm only the sign of a mask
has an effect, and the derivative there is 0 up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.methods.stages import Stage
from compressor.pruning.graph.channels import ChannelGraph, Slot
from compressor.pruning.scoring.kernels.sums import channel_sums
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import allocate
from compressor.pruning.widths.plan import Plan, plan_keeping
from compressor.recipe.budget import Budget

FRICTION = 0.9
"""Momentum of the scores."""
MEMORY = 0.99
"""Decay of the running mean of squares that normalises the derivatives."""


class Units:
    """The units of all groups in one row, and the slots of their consumers' weights."""

    def __init__(self, graph: ChannelGraph, parameters: Mapping[str, Tensor]) -> None:
        self.graph = graph
        self.starts: dict[str, int] = {}
        self.count = 0
        for group in graph.groups:
            self.starts[group.name] = self.count
            self.count += group.units
        self.readers = {
            group.name: _readers(group.slots, group.produces, parameters) for group in graph.groups
        }

    def places(self, scores: Scores) -> NDArray[np.float64]:
        """The rank of every unit by these scores, scaled from 0 (least) to 1; equal scores share a rank."""
        values = np.concatenate([scores.of(group.name) for group in self.graph.groups])
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return np.asarray(((ends - counts / 2) / len(values))[inverse], dtype=np.float64)

    def scores(self, row: NDArray[np.float64]) -> Scores:
        """Convert a row to the scores of groups."""
        by_group = {
            name: row[start : start + self.graph.group(name).units] for name, start in self.starts.items()
        }
        return Scores("learned", by_group, normalise="none")

    def kept(self, plan_units: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        """The kept units as a boolean row."""
        row = np.ones(self.count, dtype=np.bool_)
        for name, kept in plan_units.items():
            start, units = self.starts[name], self.graph.group(name).units
            row[start : start + units] = False
            row[[start + unit for unit in kept]] = True
        return row

    def plan(self, row: NDArray[np.bool_]) -> Plan:
        """The plan that keeps these units."""
        return plan_keeping(
            self.graph,
            {
                name: tuple(np.flatnonzero(row[start : start + self.graph.group(name).units]).tolist())
                for name, start in self.starts.items()
            },
        )


def chosen(
    units: Units, row: NDArray[np.float64], stage: Stage, budget: Budget, within: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The units that a stage keeps by one threshold over the scores, within its budget.

    A unit that the next larger network has masked comes last. Widths that were chosen by measurements stay fixed, and
    the scores choose the units.
    """
    wanted = np.where(within, row, -np.inf)
    kept: dict[str, tuple[int, ...]] = {}
    if stage.remove is None:
        widths = {name: pair[1] for name, pair in stage.plan.widths.items()}
    else:
        of, remove = stage.remove
        found = allocate(units.graph, units.scores(wanted), budget.share_of(of, remove))
        widths = {name: pair[1] for name, pair in found.plan.widths.items()}
    for name, width in widths.items():
        start = units.starts[name]
        own = wanted[start : start + units.graph.group(name).units]
        kept[name] = tuple(np.sort(np.argsort(-own, kind="stable")[:width]).tolist())
    return units.kept(kept)


class Derivatives:
    """dL/dm of every unit that a network has, from its weights and their gradients."""

    def __init__(self, units: Units, network: nn.Module, plan: Plan, backend: str) -> None:
        own = dict(network.named_parameters())
        device = next(iter(own.values())).device
        self._axes: list[tuple[str, int]] = []
        self._parameters: list[nn.Parameter] = []
        self._backend = backend
        entries: list[NDArray[np.int64]] = []
        owners: list[NDArray[np.int64]] = []
        offset = 0
        by_axis: dict[tuple[str, int], list[tuple[str, Slot]]] = {}
        for name, slots in units.readers.items():
            for slot in slots:
                by_axis.setdefault((slot.tensor, slot.axis), []).append((name, slot))
        for (tensor, axis), members in by_axis.items():
            parameter = own[tensor]
            kept = plan.slices.get(tensor, {}).get(axis)
            size = units.graph.shapes[tensor][axis]
            place = np.full(size, -1, dtype=np.int64)
            place[np.arange(size) if kept is None else np.array(kept)] = np.arange(parameter.shape[axis])
            for name, slot in members:
                where = place[slot.indices]
                unit = np.broadcast_to(
                    np.arange(len(slot.indices))[:, None] + units.starts[name], slot.indices.shape
                )
                there = where >= 0
                entries.append(where[there] + offset)
                owners.append(unit[there])
            self._axes.append((tensor, axis))
            self._parameters.append(parameter)
            offset += parameter.shape[axis]
        self._entries = torch.from_numpy(np.concatenate(entries)).to(device)
        self._owners = torch.from_numpy(np.concatenate(owners)).to(device)
        self._count = units.count

    def __call__(self) -> Tensor:
        """One number a unit, in float64; 0 for those that the network does not have."""
        gradients = [p.grad for p in self._parameters]
        weights = [p.detach() for p in self._parameters]
        sums = channel_sums(
            weights,
            [g for g in gradients if g is not None],
            [(number, axis) for number, (_, axis) in enumerate(self._axes)],
            ("wg",),
            self._backend,
        )
        row = torch.cat([values[0] for values in sums.values])
        found = torch.zeros(self._count, dtype=torch.float64, device=row.device)
        return found.index_add_(0, self._owners, row[self._entries])


class Moving:
    """The scores of one network, moved by derivatives."""

    def __init__(self, row: NDArray[np.float64], device: torch.device) -> None:
        self.row = torch.from_numpy(row.copy()).to(device)
        self.speed = torch.zeros_like(self.row)
        self.squares = torch.zeros_like(self.row)
        self.steps = torch.zeros((), dtype=torch.int64)

    def move(self, derivative: Tensor, distance: float) -> None:
        """One step: a constant derivative moves a score by about ``distance``."""
        # Gradients in fp16 overflow now and then; the optimizer skips such a step.
        derivative = torch.where(derivative.isfinite(), derivative, 0.0)
        self.steps += 1
        squares = derivative.square()
        self.squares.mul_(MEMORY).add_(squares, alpha=1 - MEMORY)
        mean = self.squares / (1 - MEMORY ** int(self.steps))
        scale = mean.mean().sqrt() + 1e-30
        self.speed.mul_(FRICTION).add_(derivative / scale, alpha=1 - FRICTION)
        self.row.sub_(self.speed, alpha=distance)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Tensors for a checkpoint, by name."""
        return {f"{prefix}.{name}": getattr(self, name) for name in ("row", "speed", "squares", "steps")}

    def restore(self, prefix: str, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that ``state`` returned."""
        for name in ("row", "speed", "squares", "steps"):
            getattr(self, name).copy_(state[f"{prefix}.{name}"])


def _readers(
    slots: tuple[Slot, ...], produces: tuple[Slot, ...], parameters: Mapping[str, Tensor]
) -> tuple[Slot, ...]:
    """The slots in which other layers read a group; the slots that produce it, if no layer reads it with weights.

    A matrix or a filter reads along one axis and produces along the other. Per-channel scales between them, of a norm
    or a depthwise filter, do both and are used only where there is nothing else.
    """
    made = {(slot.tensor, slot.axis) for slot in produces}
    known = [slot for slot in slots if slot.tensor in parameters]
    weights = [slot for slot in known if parameters[slot.tensor].ndim > 1]
    reading = [slot for slot in weights if (slot.tensor, slot.axis) not in made]
    alone = [slot for slot in reading if not _one_by_one(parameters[slot.tensor])]
    return tuple(alone or reading or [slot for slot in weights if (slot.tensor, slot.axis) in made] or known)


def _one_by_one(weight: Tensor) -> bool:
    """True if this looks like a depthwise filter: one input for every output."""
    return weight.ndim > 2 and weight.shape[1] == 1
