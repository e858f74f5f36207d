"""The cost ``latency`` from measured blocks: which widths of each layer to measure, and the sum of their times.

A layer of the graph and a product of the teacher's file correspond, in the same order. A sparse grid of widths is
measured: every granule while a layer is narrow, every second and every fourth where it is wide, since there one step
is a small part of the time; and fewer input channels, because time is nearly linear in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressor.errors import CompressError
from compressor.profiling import Block, BlockTimes
from compressor.pruning.graph.channels import ChannelGraph, Layer
from compressor.pruning.graph.cost import Widths, full_widths
from compressor.pruning.widths.latency_cost import Grid, Latency, Scaled, TimedLayer
from compressor.pruning.widths.solver.terms import Choices, ends

GRANULE = 8
HEAVY = 16_000_000
"""Weights of a layer above which its grid has only quarters: the first linear layer of VGG has a hundred million."""


@dataclass(frozen=True)
class Pattern:
    """A layer's block at any width. ``whole``: channels in a group where whole groups are removed, else None."""

    layer: Layer
    block: Block
    whole: int | None

    def at(self, out: int, inner: int) -> Block:
        """The block with ``out`` output channels, each of which reads ``inner`` channels."""
        return self.block.at(out, inner, out // self.whole if self.whole else self.block.groups)

    def grid(self, choices: Choices) -> tuple[list[int], list[int]]:
        """The widths to measure on both axes."""
        out, inner = self.layer.factors[0], self.layer.factors[1]
        heavy = self.block.weights > HEAVY
        outs = marks(ends(out, choices), self.whole or self.block.groups, dense=not heavy)
        return outs, marks(ends(inner, choices), 1, dense=False)


def patterns(
    graph: ChannelGraph, blocks: Sequence[Block | None], macs: Sequence[int]
) -> list[Pattern | None]:
    """Each layer of the graph with its block; None where it has none. ``macs``: of each product of the file."""
    full = full_widths(graph)

    own = [_macs(layer, full) for layer in graph.layers]
    if own != list(macs):
        raise CompressError(
            f"cannot measure layers: the network has {len(own)} products and its file {len(macs)}, "
            "or their MACs differ",
            "choose widths by `macs` instead",
        )
    found: list[Pattern | None] = []
    for layer, block in zip(graph.layers, blocks, strict=True):
        if (
            block is None
            or layer.written != 1
            or [each.at(full) for each in layer.factors[:2]] != [block.out, block.inner]
        ):
            found.append(None)
            continue
        number = graph.blocks.get(f"{layer.name}.weight")
        found.append(Pattern(layer, block, block.out // number if number else None))
    return found


def marks(bounds: tuple[float, float], multiple: int, *, dense: bool) -> list[int]:
    """Widths to measure, between and including the bounds; those between are multiples of ``multiple``."""
    low, high = (int(bound) for bound in bounds)
    if low == high:
        return [high]
    if dense:
        steps = [*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8), *range(80, 513, 16)]
        wanted = [0.5 * GRANULE, 1.5 * GRANULE, *(step * GRANULE for step in steps)]
    else:
        wanted = [high * share for share in (0.125, 0.25, 0.5, 0.75)]
    rounded = {-(-round(mark) // multiple) * multiple for mark in wanted if low < mark < high}
    return sorted({low, high} | {mark for mark in rounded if low < mark < high})


def wanted_blocks(found: Sequence[Pattern | None], choices: Choices) -> list[Block]:
    """Every block at every point of its grid."""
    wanted: dict[Block, None] = {}
    for pattern in found:
        if pattern is not None:
            outs, inners = pattern.grid(choices)
            wanted |= dict.fromkeys(pattern.at(out, inner) for out in outs for inner in inners)
    return list(wanted)


@dataclass(frozen=True)
class Beside:
    """Time of a run outside its products, as multiples of their time: ``fixed`` does not depend on widths, as the
    runtime's overhead per node; ``moving`` follows the numbers that are handled ``before`` each product."""

    fixed: float
    moving: float
    before: tuple[int, ...]


def latency_from(
    found: Sequence[Pattern | None],
    graph: ChannelGraph,
    choices: Choices,
    times: BlockTimes,
    *,
    teacher_ms: float,
    beside: Beside,
    about: str,
) -> Latency:
    """The cost ``latency``, scaled so that the teacher's is ``teacher_ms``."""
    layers = []
    for pattern in found:
        if pattern is None:
            continue
        outs, inners = pattern.grid(choices)
        ms = [[times.ratios[pattern.at(out, inner)] * times.reference_ms for inner in inners] for out in outs]
        grid = Grid(np.array(outs, float), np.array(inners, float), np.array(ms))
        layers.append(
            TimedLayer(pattern.layer.name, pattern.layer.factors[0], pattern.layer.factors[1], grid)
        )
    if not layers:
        raise CompressError(
            "cannot measure layers: none of the network's products can be timed as a block",
            "choose widths by `macs` instead",
        )
    full = full_widths(graph)
    alone = Latency(tuple(layers), (), 1.0, teacher_ms, about)
    timed = alone.of(full)
    rest = _unmeasured(found, graph, timed)
    products = timed + sum(part.of(full) for part in rest)
    rest += _moving(found, graph, beside.before, products * beside.moving)
    rest.append(Scaled(products * beside.fixed, ()))
    whole = Latency(tuple(layers), tuple(rest), 1.0, teacher_ms, about)
    return whole.scaled(teacher_ms / whole.of(full))


def _unmeasured(found: Sequence[Pattern | None], graph: ChannelGraph, products_ms: float) -> list[Scaled]:
    """The time of layers without a block, at the mean speed of the layers that have one."""
    full = full_widths(graph)

    pairs = list(zip(graph.layers, found, strict=True))
    timed = sum(_macs(layer, full) for layer, pattern in pairs if pattern is not None)
    return [
        Scaled(products_ms / timed * layer.positions, layer.factors)
        for layer, pattern in pairs
        if pattern is None
    ]


def _moving(
    found: Sequence[Pattern | None], graph: ChannelGraph, before: Sequence[int], ms: float
) -> list[Scaled]:
    """The time before each product, in proportion to the channels it reads; of depthwise layers, those it writes.

    Before a layer that has no block, as in attention, it is in proportion to all factors of the layer's own time.
    """
    full = full_widths(graph)
    total = sum(before)
    if not total:
        return [Scaled(ms, ())]
    parts = []
    for layer, pattern, numbers in zip(graph.layers, found, before, strict=True):
        factors = layer.factors
        if pattern is not None:
            factors = factors[:1] if pattern.block.groups > 1 else factors[1:2]
        parts.append(Scaled(ms * numbers / total / math.prod(each.at(full) for each in factors), factors))
    return [part for part in parts if part.ms]


def _macs(layer: Layer, widths: Widths) -> int:
    return layer.positions * math.prod(factor.at(widths) for factor in layer.factors)
