"""Rules of the operators that look something up by its index: tables, indices, chosen rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, first_output
from compressor.pruning.graph.rules.labels import NOT_A_CHANNEL, Labels


def embedding(flow: Flow, operation: Operation) -> None:
    """Rows of a table are looked up: they stay, the width of the table passes."""
    table, indices = operation.args[:2]
    flow.freeze(table, "it is looked up by index", (0,))
    flow.freeze(indices, "it holds indices")
    out = first_output(operation)
    width = flow.of(table).get(1)
    flow.give(out, {} if width is None else {out.dim() - 1: width})


def index(flow: Flow, operation: Operation) -> None:
    """``x[:, indices]``: what is looked up by index stays; dimensions without an index pass."""
    x, given = operation.args[:2]
    indices: list[Any] = [*given, *[None] * (x.dim() - len(given))]
    out = first_output(operation)
    looked_up = [dim for dim, each in enumerate(indices) if each is not None]
    if any(isinstance(each, Tensor) and each.dtype.is_floating_point for each in given):
        raise AssertionError("an index of floating point")
    if len(looked_up) == 1 and _follow(flow, operation, x, looked_up[0], indices[looked_up[0]]):
        return
    flow.freeze(x, "it is looked up by index", looked_up)
    for each in given:
        if isinstance(each, Tensor):
            flow.freeze(each, "it holds indices")
    width = out.dim() - (x.dim() - len(looked_up))
    together = looked_up == list(range(looked_up[0], looked_up[0] + len(looked_up)))
    at = looked_up[0] if together else 0
    result: Labels = {}
    position = 0
    for dim in range(x.dim()):
        if position == at:
            position += width
        if dim not in looked_up:
            if dim in flow.of(x):
                result[position] = flow.of(x)[dim]
            position += 1
    flow.give(out, result)


def index_select(flow: Flow, operation: Operation) -> None:
    """``index_select(dim, indices)``: as ``index``, along one dimension."""
    x, dim, indices = operation.args[:3]
    dim %= x.dim()
    if _follow(flow, operation, x, dim, indices):
        return
    flow.freeze(x, "it is looked up by index", (dim,))
    flow.freeze(indices, "it holds indices")
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d != dim})


def along_one_dim(flow: Flow, operation: Operation) -> None:
    """``gather``, ``scatter_add``, ``index_add``: by index along one dimension, alike along the others."""
    x, dim, *others = operation.args
    dim %= x.dim()
    whole = [each for each in others if isinstance(each, Tensor) and each.dim() == x.dim()]
    labels = dict(flow.of(x))
    for each in (x, *whole):
        flow.freeze(each, "it is looked up by index", (dim,))
    for each in others:
        if isinstance(each, Tensor) and each.dim() != x.dim():
            flow.freeze(each, "it holds indices")
    for d in range(x.dim()):
        for each in whole:
            if d != dim and each.shape[d] == x.shape[d]:
                tied = flow.tie(labels.get(d), flow.of(each).get(d), "it meets indices of fixed width")
                labels = {**labels, d: tied} if tied is not None else _without(labels, d)
            elif d != dim and d in labels:
                flow.freeze(x, "a part of it is looked up", (d,))
                labels = _without(labels, d)
    flow.give(first_output(operation), _without(labels, dim))


def index_put(flow: Flow, operation: Operation) -> None:
    """``x[:, indices] = values``: what is written by index stays; the other dimensions meet those of the values."""
    x, given, values = operation.args[:3]
    dims = [dim for dim, each in enumerate(given) if each is not None]
    flow.freeze(x, "it is written by index", dims)
    for each in given:
        if isinstance(each, Tensor):
            flow.freeze(each, "it holds indices")
    labels = dict(flow.of(x))
    if len(dims) == 1 and given[dims[0]].dim() == 1:
        place = {values.dim() - 1 - back: x.dim() - 1 - back for back in range(values.dim())}
        for own, dim in place.items():
            if dim not in dims and values.shape[own] > 1:
                flow.tie(flow.of(values).get(own), labels.get(dim), "it is written by index")
    else:
        flow.freeze(values, "it is written by index")
        for dim in set(labels) - set(dims):
            flow.freeze(x, "it is written by index", (dim,))
    flow.give(first_output(operation), _without(labels, *dims))


def _without(labels: Labels, *dims: int) -> Labels:
    return {dim: ids for dim, ids in labels.items() if dim not in dims}


def _follow(flow: Flow, operation: Operation, x: Tensor, dim: int, indices: Tensor) -> bool:
    """Channels looked up by numbers that are known are only moved."""
    numbers = flow.numbers_in(indices)
    labels = flow.of(x)
    if numbers is None or dim not in labels:
        return False
    flow.freeze(indices, NOT_A_CHANNEL)
    flow.give(first_output(operation), {**labels, dim: labels[dim][numbers]})
    return True
