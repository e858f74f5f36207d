"""Rules of the operators that only move channels: the operator is applied to the labels themselves.

What cannot be followed along a single axis, or was sized by the caller's Python, is frozen with its reason.
"""

from __future__ import annotations

import numpy as np

from compressor.graph.flow import Flow, first_output
from compressor.graph.record import Operation


def permute(flow: Flow, operation: Operation) -> None:
    """``permute``, ``transpose`` and ``t``: labels move with their dimensions."""
    x = operation.args[0]
    order = list(range(x.dim()))
    if operation.operator == "permute":
        order = [dim % x.dim() for dim in operation.args[1]]
    elif x.dim() > 1:
        one, other = operation.args[1:3] if operation.operator == "transpose" else (0, 1)
        order[one], order[other] = order[other], order[one]
    labels = flow.of(x)
    flow.give(
        first_output(operation),
        {new: labels[old] for new, old in enumerate(order) if old in labels},
    )


def reshape(flow: Flow, operation: Operation) -> None:
    """Views: labels are spread over the dimensions that merge or split, and reshaped with them.

    A merged dimension repeats each channel's label (flatten before a linear layer). Channels split
    over two dimensions are frozen: no single axis is left from which to take them.
    """
    x, out = operation.args[0], first_output(operation)
    labels, result = flow.of(x), {}
    for sources, targets in _matching_dims(tuple(x.shape), tuple(out.shape)):
        known = [dim for dim in sources if dim in labels]
        if not known:
            continue
        if len(known) > 1:
            for dim in known:
                flow.ledger.freeze(labels[dim], "two channel dimensions are merged")
            continue
        sizes = [x.shape[dim] for dim in sources]
        spread = labels[known[0]].reshape([-1 if dim == known[0] else 1 for dim in sources])
        ids = np.broadcast_to(spread, sizes).reshape([out.shape[dim] for dim in targets])
        varies = [axis for axis in range(ids.ndim) if (ids != ids.take([0], axis)).any()]
        if len(varies) > 1:
            flow.ledger.freeze(ids, "a reshape splits it over two dimensions")
        elif varies:
            rest = tuple(slice(None) if axis == varies[0] else 0 for axis in range(ids.ndim))
            result[targets[varies[0]]] = ids[rest]
    flow.give(out, result)


def _matching_dims(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products: (2, 3, 4, 4) and (2, 3, 16) give three."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources: list[int] = []
        targets: list[int] = []
        size_before = size_after = 1
        while not sources or not targets or size_before != size_after:
            take_source = (size_before <= size_after and i < len(before)) or j >= len(after)
            if take_source and i < len(before):
                sources.append(i)
                size_before *= before[i]
                i += 1
            elif j < len(after):
                targets.append(j)
                size_after *= after[j]
                j += 1
            else:
                break
        runs.append((sources, targets))
    return runs


def expand(flow: Flow, operation: Operation) -> None:
    """Labels stay with the last dimensions; a dimension that is repeated is plain."""
    x, out = operation.args[0], first_output(operation)
    shift = out.dim() - x.dim()
    flow.give(out, {dim + shift: ids for dim, ids in flow.of(x).items()})


def unsqueeze(flow: Flow, operation: Operation) -> None:
    """A new dimension of one: later labels move up."""
    x, dim = operation.args[:2]
    at = dim % (x.dim() + 1)
    flow.give(first_output(operation), {d + (d >= at): ids for d, ids in flow.of(x).items()})


def squeeze(flow: Flow, operation: Operation) -> None:
    """Dimensions of one disappear: later labels move down."""
    x = operation.args[0]
    given = operation.args[1] if len(operation.args) > 1 else list(range(x.dim()))
    asked = {dim % x.dim() for dim in ([given] if isinstance(given, int) else given)}
    gone = {dim for dim in asked if x.shape[dim] == 1}
    flow.give(
        first_output(operation),
        {d - sum(g < d for g in gone): ids for d, ids in flow.of(x).items()},
    )


def takes_part(flow: Flow, operation: Operation) -> None:
    """Slices, splits, selections: fine along plain dimensions.

    Along channels the sizes were fixed by the caller's Python, so those channels stay whole.
    """
    x = operation.args[0]
    labels = flow.of(x)
    for out in operation.outputs:
        if out.dim() == x.dim():
            same = {dim for dim in labels if out.shape[dim] == x.shape[dim]}
            flow.give(out, {dim: labels[dim] for dim in same})
            cut = tuple(dim for dim in labels if dim not in same)
        else:
            gone = operation.args[1] % x.dim() if len(operation.args) > 1 else 0
            cut = (gone,)
            flow.give(out, {d - (d > gone): ids for d, ids in labels.items() if d != gone})
        flow.freeze(x, f"`{operation.operator}` takes a fixed part of it", cut)


def pads(flow: Flow, operation: Operation) -> None:
    """Padding: fine along plain dimensions. Along channels it may also move or crop them, so they stay whole."""
    x, amounts = operation.args[:2]
    labels = flow.of(x)
    # Two amounts a dimension, the last dimension first.
    padded = tuple(dim for dim in labels if any(amounts[2 * (x.dim() - 1 - dim) :][:2]))
    flow.freeze(x, f"`{operation.operator}` pads it", padded)
    flow.give(first_output(operation), {dim: ids for dim, ids in labels.items() if dim not in padded})
