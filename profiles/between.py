"""What lies between the products of an ONNX file: sums, gates, pools and changes of shape.

They handle what the next product is going to read, so that is the width which their time follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .blocks import readers_of, tail_of
from .onnx_counts import PRODUCTS, read_model, shapes_as_it_ran


def numbers_before(path: Path, *, side: Sequence[int] = ()) -> tuple[int, ...]:
    """How many numbers go through the nodes before each product of the file, in its order.

    The activation behind a product is part of its block and not counted here; what several products read counts for
    the first of them, and what none reads for nobody.
    """
    model = read_model(path)
    shapes = shapes_as_it_ran(path, model, list(side))
    readers = readers_of(model)
    nodes = list(model.graph.node)
    products = [node for node in nodes if node.op_type in PRODUCTS]
    tails = {id(each) for node in products for _, nodes in tail_of(node, readers) for each in nodes}
    places = {id(node): place for place, node in enumerate(products)}
    leads = _leads(nodes, readers, places)
    found = [0] * len(products)
    for node in nodes:
        place = min((leads[name] for name in node.output if name in leads), default=None)
        if place is not None and id(node) not in tails and id(node) not in places:
            ends = [shapes[name] for name in (*node.input[:1], *node.output) if name in shapes]
            found[place] += max(map(math.prod, ends), default=0)
    return tuple(found)


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
