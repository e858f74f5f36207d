"""Rules of the operators that only move channels: the operator is applied to the labels themselves.

What cannot be followed along a single axis is joined until it can, or frozen with its reason.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, Split, first_output
from compressor.pruning.graph.rules.labels import Ids, Labels


def permute(flow: Flow, operation: Operation) -> None:
    """``permute``, ``transpose``, ``movedim`` and ``t``: labels move with their dimensions."""
    x = operation.args[0]
    order = list(range(x.dim()))
    if operation.operator == "permute":
        order = [dim % x.dim() for dim in operation.args[1]]
    elif x.dim() > 1:
        one, other = operation.args[1:3] if operation.operator == "transpose" else (0, 1)
        order[one], order[other] = order[other], order[one]
    split = flow.split_of(x)
    labels = flow.of(x) if split is None else flow.labels_beside(x)
    moved = {new: labels[old] for new, old in enumerate(order) if old in labels}
    if split is None:
        flow.give(first_output(operation), moved)
    else:
        place = {old: new for new, old in enumerate(order)}
        split = replace(split, dims=tuple(place[dim] for dim in split.dims))
        flow.give_split(first_output(operation), moved, split)


def copies(flow: Flow, operation: Operation) -> None:
    """``clone`` and the like: everything stays where it is."""
    x, out = operation.args[0], first_output(operation)
    split = flow.split_of(x)
    if split is None or out.shape != x.shape:
        flow.give(out, flow.of(x))
    else:
        flow.give_split(out, flow.labels_beside(x), split)


def reshape(flow: Flow, operation: Operation) -> None:
    """Views: labels are spread over the dimensions that merge or split, and reshaped with them.

    A merged dimension repeats each channel's label (flatten before a linear layer). Channels that are split over
    several dimensions (heads, shuffles) are left untied for as long as nothing looks at them: a shuffle merges them
    again in another order. See ``Flow._settled`` for what happens otherwise.
    """
    x, out = operation.args[0], first_output(operation)
    if flow.split_of(x) is not None and _merged_again(flow, x, out):
        return
    labels = flow.of(x)
    if not labels:
        return
    result: Labels = {}
    split: Split | None = None
    for sources, targets in _matching_dims(tuple(x.shape), tuple(out.shape)):
        for source in sources:
            ids = labels.get(source)
            if ids is None:
                continue
            if x.shape[source] == math.prod(x.shape[dim] for dim in sources):
                wide = [target for target in targets if out.shape[target] > 1]
                if len(wide) == 1:
                    result[wide[0]] = ids
                    continue
                if split is None and ids.ndim == 1 and _differ(ids):
                    sizes = tuple(out.shape[dim] for dim in targets)
                    split = Split(x, source, sizes, tuple(targets), flow.position)
                    continue
            for column in ids.reshape(len(ids), -1).T:
                spread = column.reshape([-1 if dim == source else 1 for dim in sources])
                whole = np.broadcast_to(spread, [x.shape[dim] for dim in sources])
                _onto_one_dim(flow, whole.reshape([out.shape[dim] for dim in targets]), targets, result)
    if split is None:
        flow.give(out, result)
    else:
        flow.give_split(out, result, split)


def _differ(ids: Ids) -> bool:
    return len(np.unique(ids)) == len(ids)


def _merged_again(flow: Flow, x: Tensor, out: Tensor) -> bool:
    """True if this view brings split channels back to one dimension in another order: a shuffle."""
    split = flow.split_of(x)
    assert split is not None
    if out.shape != split.source.shape or flow.written.get(id(split.source), -1) > split.position:
        return False
    for sources, targets in _matching_dims(tuple(x.shape), tuple(out.shape)):
        wide = [dim for dim in sources if x.shape[dim] > 1]
        into = [dim for dim in targets if out.shape[dim] > 1]
        inside = [dim for dim in wide if dim in split.dims]
        if inside and (set(wide) - set(split.dims) or into != [split.dim]):
            return False
    beside = flow.labels_beside(x)
    if beside.keys() - set(flow.of(split.source)):
        return False
    box = np.arange(math.prod(split.sizes)).reshape(split.sizes)
    order = box.transpose(np.argsort(split.dims)).ravel()
    source = flow.of(split.source)
    flow.give(out, {**source, split.dim: source[split.dim][order]})
    flow.shuffles[flow.position] = (split, order)
    return True


def _onto_one_dim(flow: Flow, ids: Ids, targets: list[int], result: Labels) -> None:
    varies = [axis for axis in range(ids.ndim) if (ids != ids.take([0], axis)).any()]
    if not varies:
        if ids.size > 1:
            flow.ledger.freeze(ids.ravel()[:1], "nothing but it is repeated")
        return
    chosen = varies[-1]
    if len(varies) > 1:
        if flow.position in flow.whole_heads:
            chosen = varies[-2]
        first = ids[tuple(slice(None) if axis == chosen else slice(0, 1) for axis in range(ids.ndim))]
        flow.ledger.join(ids, first)
        flow.splits.append((flow.position, first.ravel()))
    column = ids[tuple(slice(None) if axis == chosen else 0 for axis in range(ids.ndim))]
    target = targets[chosen]
    if target in result:
        before = result[target].reshape(len(column), -1)
        result[target] = np.concatenate([before, column[:, None]], axis=1)
    else:
        result[target] = np.ascontiguousarray(column)


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
    """Labels stay with the last dimensions; along a dimension that is repeated all values are equal."""
    x, out = operation.args[0], first_output(operation)
    shift = out.dim() - x.dim()
    labels = {dim + shift: ids for dim, ids in flow.of(x).items()}
    repeated = [dim for dim in range(out.dim()) if dim < shift or x.shape[dim - shift] != out.shape[dim]]
    flow.give(out, {**labels, **flow.flexible(out, repeated)})


def repeat(flow: Flow, operation: Operation) -> None:
    """Copies side by side: so are the labels. Where there was one index, all values are equal."""
    x, out = operation.args[0], first_output(operation)
    shift = out.dim() - x.dim()
    labels = {
        dim + shift: np.concatenate([ids] * (out.shape[dim + shift] // len(ids)))
        for dim, ids in flow.of(x).items()
    }
    repeated = [dim for dim in range(out.dim()) if dim < shift or x.shape[dim - shift] == 1]
    flow.give(out, {**labels, **flow.flexible(out, repeated)})


def unsqueeze(flow: Flow, operation: Operation) -> None:
    """A new dimension of one: later labels move up."""
    x, dim = operation.args[:2]
    at = dim % (x.dim() + 1)
    flow.give(first_output(operation), {d + (d >= at): ids for d, ids in flow.of(x).items()})


def squeeze(flow: Flow, operation: Operation) -> None:
    """Dimensions of one disappear: later labels move down."""
    x = operation.args[0]
    given = operation.args[1] if len(operation.args) > 1 else list(range(x.dim()))
    asked = {dim % x.dim() for dim in ([given] if isinstance(given, int) else given)} if x.dim() else set()
    gone = {dim for dim in asked if x.shape[dim] == 1}
    flow.give(
        first_output(operation),
        {d - sum(g < d for g in gone): ids for d, ids in flow.of(x).items()},
    )


def slice_(flow: Flow, operation: Operation) -> None:
    """A range of a dimension: so much of its labels."""
    x, dim, start, end, step = (*operation.args, *(0, None, None, 1)[len(operation.args) - 1 :])[:5]
    labels = dict(flow.of(x))
    dim %= x.dim()
    out = first_output(operation)
    if dim in labels:
        _take(flow, labels, dim, slice(start, end, step), out)
    flow.give(out, labels)


def split(flow: Flow, operation: Operation) -> None:
    """``split`` and ``split_with_sizes``: each part has its stretch of the labels."""
    x = operation.args[0]
    dim = (operation.args[2] if len(operation.args) > 2 else operation.kwargs.get("dim", 0)) % x.dim()
    labels = flow.of(x)
    start = 0
    for out in operation.outputs:
        part = dict(labels)
        if dim in labels:
            _take(flow, part, dim, slice(start, start + out.shape[dim]), out)
        start += out.shape[dim]
        flow.give(out, part)


def _take(flow: Flow, labels: Labels, dim: int, part: slice, out: Tensor) -> None:
    ids = labels.pop(dim)[part]
    if out.shape[dim] > 1:
        labels[dim] = ids
    else:
        # One index broadcasts against whatever it meets, so that it cannot be told from a plain dimension.
        flow.ledger.freeze(ids, "it is taken alone")


def select(flow: Flow, operation: Operation) -> None:
    """One index of a dimension: it must stay; the dimension disappears."""
    x, dim, index = (*operation.args, operation.kwargs.get("dim"), operation.kwargs.get("index"))[:3]
    dim %= x.dim()
    labels = flow.of(x)
    if dim in labels:
        flow.ledger.freeze(labels[dim][[index]], "it is selected by its index")
    rest = {d - (d > dim): ids for d, ids in labels.items() if d != dim}
    flow.give(first_output(operation), rest)


def unbind(flow: Flow, operation: Operation) -> None:
    """Every index of a dimension by itself: all must stay."""
    x = operation.args[0]
    dim = (operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", 0)) % x.dim()
    flow.freeze(x, "its indices are taken apart", (dim,))
    rest = {d - (d > dim): ids for d, ids in flow.of(x).items() if d != dim}
    for out in operation.outputs:
        flow.give(out, rest)


def roll(flow: Flow, operation: Operation) -> None:
    """Indices move round."""
    x, shifts, dims = (*operation.args, [])[:3]
    labels = dict(flow.of(x))
    if not dims:
        flow.freeze(x, "`roll` runs over all dimensions at once")
        return
    for shift, dim in zip(_listed(shifts), _listed(dims), strict=True):
        if dim % x.dim() in labels:
            labels[dim % x.dim()] = np.roll(labels[dim % x.dim()], shift, axis=0)
    flow.give(first_output(operation), labels)


def flip(flow: Flow, operation: Operation) -> None:
    """Reversed dimensions reverse their labels."""
    x, dims = operation.args
    turned = {dim % x.dim() for dim in dims}
    flow.give(
        first_output(operation), {d: ids[::-1] if d in turned else ids for d, ids in flow.of(x).items()}
    )


def pads(flow: Flow, operation: Operation) -> None:
    """Padding: channels that are added hold one value, so they may go with those that they meet."""
    x, amounts = operation.args[:2]
    out = first_output(operation)
    labels = dict(flow.of(x))
    for dim in range(x.dim()):
        # Two amounts a dimension, the last dimension first.
        around = list(amounts[2 * (x.dim() - 1 - dim) :][:2])
        if not any(around):
            continue
        ids = labels.pop(dim, None)
        if ids is None:
            continue
        if operation.operator != "constant_pad_nd" or min(around) < 0 or ids.ndim > 1:
            flow.ledger.freeze(ids, f"`{operation.operator}` pads it")
            continue
        before, after = (flow.ledger.unnamed(amount) for amount in around)
        labels[dim] = np.concatenate([before, ids, after])
    flow.give(out, labels)


def channel_shuffle(flow: Flow, operation: Operation) -> None:
    """Blocks of channels interleaved: the same position of every block goes together."""
    x, groups = operation.args[:2]
    labels = dict(flow.of(x))
    ids = labels.pop(1, None)
    if ids is not None and ids.ndim == 1:
        blocks = ids.reshape(groups, -1)
        flow.ledger.join(blocks, blocks[:1])
        labels[1] = blocks.T.ravel()
    elif ids is not None:
        flow.ledger.freeze(ids, "it is shuffled")
    flow.give(first_output(operation), labels)


def gated_halves(flow: Flow, operation: Operation) -> None:
    """``glu``: one half gates the other, so that the same place in both is one channel."""
    x = operation.args[0]
    dim = (operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", -1)) % x.dim()
    labels = dict(flow.of(x))
    if dim in labels:
        value, gate = np.split(labels.pop(dim), 2)
        tied = flow.tie(value, gate, "its gate is of fixed width")
        if tied is not None:
            labels[dim] = tied
    flow.give(first_output(operation), labels)


def triangle(flow: Flow, operation: Operation) -> None:
    """``tril`` and ``triu``: what stays depends on the index along the last two dimensions."""
    x = operation.args[0]
    flow.freeze(x, f"`{operation.operator}` looks at its index", (x.dim() - 2, x.dim() - 1))
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d < x.dim() - 2})


def creates(flow: Flow, operation: Operation) -> None:
    """New tensors filled with one value: they take any size that they meet."""
    for out in operation.outputs:
        flow.give(out, flow.flexible(out, range(out.dim())))


def counts_up(flow: Flow, operation: Operation) -> None:
    """New tensors whose values follow their index: plain."""


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
