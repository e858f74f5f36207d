"""What lies between the products of an ONNX file: sums, gates, pools and changes of shape.

They handle what the next product is going to read, so that is the width which their time follows.
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
    """``before``: how many numbers go through the nodes before each product of the file, in its order.

    ``in_blocks``: the names of the nodes that are timed with the product in front of them (`Block.tail`) instead.
    """

    before: tuple[int, ...]
    in_blocks: frozenset[str]


def lies_between(path: Path, *, side: Sequence[int] = ()) -> Between:
    """What several products read counts for the first of them, and what none reads for nobody.

    An activation that the runtime takes apart (`HardSwish`) counts here: in a block, its parts could not be told.
    """
    model = read_model(path)
    shapes, ran = shapes_as_it_ran(path, model, list(side))
    readers = readers_of(model)
    nodes = list(model.graph.node)
    products = [node for node in nodes if node.op_type in PRODUCTS]
    tails = [each for node in products for _, group in tail_of(node, readers) for each in group]
    in_blocks = frozenset(node.name for node in tails if node.name in ran)
    places = {id(node): place for place, node in enumerate(products)}
    leads = _leads(nodes, readers, places)
    found = [0] * len(products)
    for node in nodes:
        place = min((leads[name] for name in node.output if name in leads), default=None)
        if place is not None and node.name not in in_blocks and id(node) not in places:
            ends = [shapes[name] for name in (*node.input[:1], *node.output) if name in shapes]
            found[place] += max(map(math.prod, ends), default=0)
    return Between(tuple(found), in_blocks)


def _leads(
    nodes: Sequence[Any],
    readers: Mapping[str, Sequence[Any]],
    places: Mapping[int, int],
) -> dict[str, int]:
    """For each value the first product that it comes to without passing another one."""
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
