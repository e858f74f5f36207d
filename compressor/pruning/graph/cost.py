"""The cost of a choice of widths, as one formula for every kind of cost.

Each cost is a sum of products: a layer's MACs are its positions times the channels it writes times the
channels it reads, a parameter's size is the product of its axes. So a cost is a table of
``coefficient * product(constant + times @ widths)``, and evaluating a plan is a few small matrix products:
nothing is built and nothing is run until the widths are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.graph.channels import ChannelGraph, Factor

Widths = NDArray[np.int64]
"""Kept units of each cuttable group, in the order of ``ChannelGraph.groups``."""


@dataclass(frozen=True)
class Cost:
    """``sum(coefficients * product over factors of (constants + times @ widths))``."""

    name: str
    coefficients: NDArray[np.float64]
    constants: NDArray[np.float64]
    times: NDArray[np.float64]

    def of(self, widths: Widths) -> int:
        """The cost when each group keeps this many units."""
        sizes = self.constants + self.times @ widths
        return round(float(self.coefficients @ sizes.prod(axis=1)))


def costs_of(graph: ChannelGraph) -> dict[str, Cost]:
    """Every cost in ``COSTS`` for this graph."""
    return {name: build(graph) for name, build in COSTS.items()}


def full_widths(graph: ChannelGraph) -> Widths:
    """The widths of the network before any cut."""
    return np.array([group.units for group in graph.groups], dtype=np.int64)


def _macs(graph: ChannelGraph) -> Cost:
    """Multiply-accumulates of convolutions and linear layers for one input; no bias, no norm."""
    return _cost("macs", graph, [(layer.positions, layer.factors) for layer in graph.layers])


def _params(graph: ChannelGraph) -> Cost:
    """Parameters of every kind: weights, biases, norms; not running statistics."""
    return _cost("params", graph, [(1, parameter.factors) for parameter in graph.parameters])


def _channels(graph: ChannelGraph) -> Cost:
    """Output channels of every convolution and linear layer, the classifier's included."""
    return _cost("channels", graph, [(1, layer.factors[: layer.written]) for layer in graph.layers])


COSTS = {"macs": _macs, "params": _params, "channels": _channels}


def _cost(name: str, graph: ChannelGraph, terms: Sequence[tuple[int, tuple[Factor, ...]]]) -> Cost:
    most = max((len(factors) for _, factors in terms), default=1)
    constants = np.ones((len(terms), most))
    times = np.zeros((len(terms), most, len(graph.groups)))
    for row, (_, factors) in enumerate(terms):
        for column, factor in enumerate(factors):
            constants[row, column] = factor.constant
            for group, count in factor.times:
                times[row, column, group] = count
    return Cost(name, np.array([term[0] for term in terms], dtype=np.float64), constants, times)
