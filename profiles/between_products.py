"""Nodes between the products of an ONNX file: sums, gates, pools and changes of shape.

They prepare the input of the next product, so their time depends on the width of that input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.profiling.blocks import readers_of, tail_of
from compressor.profiling.onnx_counts import PRODUCTS, read_model, shapes_as_it_ran


@dataclass(frozen=True)
class Between:
    """Work between products. ``before``: count of numbers that nodes handle before each product, in file order.

    ``in_blocks``: the names of the nodes that are timed with the product in front of them (`Block.tail`) instead.
    """

    before: tuple[int, ...]
    in_blocks: frozenset[str]


def lies_between(path: Path, *, side: Sequence[int] = ()) -> Between:
    """Count the numbers that nodes between products handle.

    A node whose result several products read counts for the first of them; one whose result none reads does not count.
    An activation that the runtime splits (`HardSwish`) counts here: in a block, its parts could not be identified.
    """
    model = read_model(path)
    shapes, ran = shapes_as_it_ran(path, model, list(side))
    readers = readers_of(model)
    nodes = list(model.graph.node)
    products = [node for node in nodes if node.op_type in PRODUCTS]
    tails = [activation for node in products for _, group in tail_of(node, readers) for activation in group]
    in_blocks = frozenset(node.name for node in tails if node.name in ran)
    places = {id(node): place for place, node in enumerate(products)}
    leads = _leads(nodes, readers, places)
    before = [0] * len(products)
    for node in nodes:
        place = min((leads[name] for name in node.output if name in leads), default=None)
        if place is not None and node.name not in in_blocks and id(node) not in places:
            sizes = [shapes[name] for name in (*node.input[:1], *node.output) if name in shapes]
            before[place] += max(map(math.prod, sizes), default=0)
    return Between(tuple(before), in_blocks)


def _leads(
    nodes: Sequence[Any],
    readers: Mapping[str, Sequence[Any]],
    places: Mapping[int, int],
) -> dict[str, int]:
    """Map each tensor to the first product that it reaches without passing another product."""
    leads: dict[str, int] = {}
    for node in reversed(nodes):
        for name in node.output:
            ahead = [
                places[id(reader)] if id(reader) in places else leads[written]
                for reader in readers.get(name, ())
                for written in reader.output[:1]
                if id(reader) in places or written in leads
            ]
            if ahead:
                leads[name] = min(ahead)
    return leads
