"""Latency as a cost: what a choice of widths takes on one device, from blocks that were measured there.

A layer's time is looked up in a grid over the channels that it writes and those that each of them reads; between grid
points it is taken to be straight. A narrow layer may well cost more than a wider one: in eight bits a convolution of 4
channels does. What a network does beside its products (sums, gates, changes of layout) follows the numbers that it
handles, but for what the runtime spends on every node; and the whole is scaled to the teacher's own time.
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
        """Interpolated; below the narrowest width as at it, and never above the widest."""
        row, low = _place(self.outs, out)
        column, left = _place(self.inners, inner)
        down, right = np.minimum(row + 1, len(self.outs) - 1), np.minimum(column + 1, len(self.inners) - 1)
        upper = self.ms[row, column] * (1 - left) + self.ms[row, right] * left
        lower = self.ms[down, column] * (1 - left) + self.ms[down, right] * left
        return np.asarray(upper * (1 - low) + lower * low)


def _place(marks: Numbers, wanted: Numbers) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], Numbers]:
    """The mark at or below, and how far it is from there to the next."""
    below = np.clip(np.searchsorted(marks, wanted, side="right") - 1, 0, len(marks) - 1)
    above = np.minimum(below + 1, len(marks) - 1)
    gap = np.maximum(marks[above] - marks[below], 1.0)
    return below, np.clip((wanted - marks[below]) / gap, 0.0, 1.0)


@dataclass(frozen=True)
class TimedLayer:
    """A layer: what it writes, what each of that reads, and its time."""

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
    """The cost ``latency``, in milliseconds. ``teacher_ms`` is what was measured, ``scale`` makes the sum equal it."""

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
        """All times multiplied: what measuring a real network taught."""
        return replace(self, scale=self.scale * by)


@dataclass(frozen=True)
class FileBytes:
    """The cost ``bytes`` of the exported file: four for each parameter, and what the teacher's file has ``beside``."""

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
        """All bytes multiplied: what a real file taught."""
        return replace(self, scale=self.scale * by)


Measured = Latency | FileBytes
"""Costs that can only be known for sure of a network that was built."""
