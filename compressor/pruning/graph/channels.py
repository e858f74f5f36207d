"""The value that everything after tracing works on: which channels must go together.

A *slot* is one axis of one parameter or buffer. A *unit* is the smallest set of channels that can
leave alone: a channel of a chain, the same channel of every layer of a residual stage, a whole group
of a grouped convolution. A *group* is the units that live in the same slots. Nothing here runs a
network; every value can be printed and written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Slot:
    """An axis on which a group has channels: row ``u`` of ``indices`` are those of unit ``u``."""

    tensor: str
    axis: int
    indices: Indices

    def __repr__(self) -> str:
        return f"{self.tensor}[{self.axis}]"


@dataclass(frozen=True, repr=False)
class Group:
    """Channels that must go together; ``frozen`` says why when none of them may go."""

    name: str
    units: int
    slots: tuple[Slot, ...]
    produces: tuple[Slot, ...] = ()
    frozen: str | None = None

    @property
    def channels_per_unit(self) -> int:
        """Output channels of the first producing layer that one unit stands for."""
        return int(self.produces[0].indices.shape[1]) if self.produces else 1

    def __repr__(self) -> str:
        layers = ", ".join(slot.tensor.rpartition(".")[0] or slot.tensor for slot in self.produces)
        where = f" from {layers}" if len(self.produces) > 1 else ""
        why = f": not cut, {self.frozen}" if self.frozen else ""
        return f"{self.name}: {self.units} units in {len(self.slots)} slots{where}{why}"


@dataclass(frozen=True)
class Factor:
    """A size that follows the cut: ``constant + sum(times * kept units of group)``."""

    constant: int
    times: tuple[tuple[int, int], ...] = ()

    def at(self, widths: Sequence[int] | NDArray[np.int64]) -> int:
        """The size when each group keeps this many units."""
        return self.constant + sum(times * int(widths[group]) for group, times in self.times)


@dataclass(frozen=True)
class Layer:
    """A multiplying operator: ``macs = positions * product(factors)`` for one sample.

    The first ``written`` factors are the size of what it writes: one, or several where dimensions are merged in it.
    """

    name: str
    kind: str
    positions: int
    factors: tuple[Factor, ...]
    written: int = 1


@dataclass(frozen=True)
class ParameterSize:
    """The size of one parameter, axis by axis."""

    name: str
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class Unsupported:
    """An operator without a rule: everything it touches is left whole."""

    module: str
    operator: str
    line: str = ""

    @property
    def where(self) -> str:
        """The module, and the line of its source."""
        return (self.module or "the network itself") + (f" ({self.line})" if self.line else "")


@dataclass(frozen=True)
class ChannelGraph:
    """Groups that may be cut, groups that may not (with the reason), and what follows their sizes.

    ``blocks`` maps the weight of a grouped convolution or group norm whose units are whole blocks to its number of
    blocks: there the module's number of groups shrinks with the kept units. ``inputs`` describes the example that
    the network was traced with.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Group, ...]
    layers: tuple[Layer, ...]
    parameters: tuple[ParameterSize, ...]
    shapes: Mapping[str, tuple[int, ...]]
    blocks: Mapping[str, int]
    unsupported: tuple[Unsupported, ...]
    inputs: Any = None

    def group(self, name: str) -> Group:
        """The group of that name, whether it may be cut or not."""
        return next(group for group in (*self.groups, *self.frozen) if group.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``graph.json``: for people and other tools; tracing again is cheaper than reading."""
        return {
            "schema": 1,
            "groups": [_group_to_dict(group) for group in self.groups],
            "not_cut": [_group_to_dict(group) for group in self.frozen],
            "without_rule": [
                {"module": item.module, "operator": item.operator, "line": item.line}
                for item in self.unsupported
            ],
        }


def _group_to_dict(group: Group) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": group.name,
        "units": group.units,
        "channels_per_unit": group.channels_per_unit,
        "slots": [
            {"tensor": slot.tensor, "axis": slot.axis, "per_unit": int(slot.indices.shape[1])}
            for slot in group.slots
        ],
    }
    if group.frozen:
        entry["reason"] = group.frozen
    return entry
