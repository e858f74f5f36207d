"""Latency as a cost: the time of a choice of widths on one device, from blocks that were measured there.

A layer's time is looked up in a grid over its output channels and the channels that each of them reads, with linear
interpolation. A narrow layer can take longer than a wider one: in INT8 a convolution of 4 channels does. The time of
other operators (sums, gates, changes of layout) follows the numbers that they handle, plus a fixed overhead of the
runtime per node; the total is scaled to the teacher's measured time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from compressor.pruning.graph.channels import Factor
from compressor.pruning.graph.cost import Cost, Widths
from compressor.pruning.widths.solver.terms import (
    Choices,
    Numbers,
    Terms,
    add,
    function_terms,
    product_terms,
    terms_of,
)


@dataclass(frozen=True)
class Grid:
    """Milliseconds at some widths: a row for each of ``outs``, a column for each of ``inners``."""

    outs: Numbers
    inners: Numbers
    ms: Numbers

    def at(self, out: Numbers, inner: Numbers) -> Numbers:
        """The interpolated time; outside the grid, the time at its nearest edge."""
        row, low = _place(self.outs, out)
        column, left = _place(self.inners, inner)
        down, right = np.minimum(row + 1, len(self.outs) - 1), np.minimum(column + 1, len(self.inners) - 1)
        upper = self.ms[row, column] * (1 - left) + self.ms[row, right] * left
        lower = self.ms[down, column] * (1 - left) + self.ms[down, right] * left
        return np.asarray(upper * (1 - low) + lower * low)


def _place(marks: Numbers, wanted: Numbers) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], Numbers]:
    """Index of the grid point at or below each width, and the fraction of the way to the next point."""
    below = np.clip(np.searchsorted(marks, wanted, side="right") - 1, 0, len(marks) - 1)
    above = np.minimum(below + 1, len(marks) - 1)
    gap = np.maximum(marks[above] - marks[below], 1.0)
    return below, np.clip((wanted - marks[below]) / gap, 0.0, 1.0)


@dataclass(frozen=True)
class TimedLayer:
    """A layer: its output channels, the channels that each of them reads, and its times."""

    name: str
    out: Factor
    inner: Factor
    grid: Grid


@dataclass(frozen=True)
class Scaled:
    """Time in proportion to a product of sizes: ``ms * product(factors)``."""

    ms: float
    factors: tuple[Factor, ...]

    def of(self, widths: Widths) -> float:
        """Milliseconds, before any scale."""
        return self.ms * math.prod(factor.at(widths) for factor in self.factors)


@dataclass(frozen=True)
class Latency:
    """The cost ``latency``, in milliseconds. ``scale`` makes the teacher's sum equal the measured ``teacher_ms``."""

    layers: tuple[TimedLayer, ...]
    rest: tuple[Scaled, ...]
    scale: float
    teacher_ms: float
    about: str
    name: str = "latency"

    def of(self, widths: Widths) -> float:
        """Milliseconds when each group keeps this many units."""
        total = 0.0
        for layer in self.layers:
            sizes = np.array([layer.out.at(widths), layer.inner.at(widths)], np.float64)
            total += layer.grid.at(sizes[:1], sizes[1:]).item()
        for part in self.rest:
            total += part.of(widths)
        return self.scale * total

    def terms(self, choices: Choices) -> Terms:
        """The same as tables."""
        terms: Terms = {}
        for layer in self.layers:
            function_terms(terms, partial(self._time, layer), layer.out, layer.inner, choices)
        for part in self.rest:
            product_terms(terms, self.scale * part.ms, part.factors, choices)
        return terms

    def _time(self, layer: TimedLayer, out: Numbers, inner: Numbers) -> Numbers:
        return self.scale * layer.grid.at(out, inner)

    def scaled(self, by: float) -> Latency:
        """Multiply all times by a factor, as found by measuring a real network."""
        return replace(self, scale=self.scale * by)


@dataclass(frozen=True)
class FileBytes:
    """The cost ``bytes`` of the exported file: four per parameter, and the teacher's other bytes (``beside``)."""

    params: Cost
    beside: int
    scale: float = 1.0
    name: str = "bytes"

    def of(self, widths: Widths) -> float:
        """Bytes when each group keeps this many units."""
        return self.scale * (4 * self.params.of(widths) + self.beside)

    def terms(self, choices: Choices) -> Terms:
        """The same as tables."""
        terms: Terms = {
            scope: 4 * self.scale * table for scope, table in terms_of(self.params, choices).items()
        }
        add(terms, (), np.array(self.scale * self.beside))
        return terms

    def scaled(self, by: float) -> FileBytes:
        """Multiply all bytes by a factor, as found from a real file."""
        return replace(self, scale=self.scale * by)


Measured = Latency | FileBytes
"""Costs that are exact only for a network that was built and measured."""
