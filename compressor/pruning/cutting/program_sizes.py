"""The sizes that an operator's arguments repeat, for a network with fewer channels.

A recording holds the sizes of the teacher: the shape of a view, the parts of a split, the ends of a slice. Given
which atoms stay, ``resized`` says what the same operator is called with in the student. ``RESIZED`` lists the
operators whose arguments hold sizes at all; the others are called as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compressor.pruning.graph.labelled import Remaining
from compressor.pruning.graph.recording.operation import Operation

Called = tuple[str, tuple[Any, ...]]


def resized(operation: Operation, remaining: Remaining, position: int = -1) -> Called:
    """The operator's name and its arguments in the student.

    ``position`` is its place in the recording: a view that completes a shuffle of channels becomes a lookup from
    where the channels came, since they no longer fill a box.
    """
    shuffle = remaining.flow.shuffles.get(position)
    if shuffle is not None:
        split, order = shuffle
        kept = remaining.kept(split.source, split.dim)
        if kept is not None and not kept.all():
            return "index_select", (
                split.source,
                split.dim,
                (np.cumsum(kept) - 1)[order[kept[order]]].tolist(),
            )
    change = RESIZED.get(operation.operator)
    return (operation.operator, operation.args) if change is None else change(operation, remaining)


def _view(operation: Operation, remaining: Remaining) -> Called:
    return operation.operator, (operation.args[0], remaining.shape(operation.outputs[0]))


def _expand(operation: Operation, remaining: Remaining) -> Called:
    return "expand", (operation.args[0], remaining.shape(operation.outputs[0]))


def _split(operation: Operation, remaining: Remaining) -> Called:
    x = operation.args[0]
    dim = (operation.args[2] if len(operation.args) > 2 else operation.kwargs.get("dim", 0)) % x.dim()
    if remaining.kept(x, dim) is None:
        return operation.operator, operation.args
    sizes = [remaining.size(out, dim) for out in operation.outputs]
    return "split_with_sizes", (x, sizes, dim)


def _slice(operation: Operation, remaining: Remaining) -> Called:
    x, dim, start, end, step = (*operation.args, *(0, None, None, 1)[len(operation.args) - 1 :])[:5]
    dim %= x.dim()
    kept = remaining.kept(x, dim)
    if kept is None or kept.all():
        return operation.operator, operation.args
    taken = np.arange(x.shape[dim])[slice(start, end, step)]
    places = (np.cumsum(kept) - 1)[taken[kept[taken]]]
    steps = np.unique(np.diff(places))
    if len(steps) <= 1 and (not len(steps) or steps[0] > 0):
        first, by = int(places[0]) if len(places) else 0, int(steps[0]) if len(steps) else 1
        end = int(places[-1]) + 1 if len(places) else 0
        return "slice", (x, dim, first, end, by)
    return "index_select", (x, dim, places.tolist())


def _select(operation: Operation, remaining: Remaining) -> Called:
    x, dim, index = operation.args[:3]
    kept = remaining.kept(x, dim % x.dim())
    if kept is None:
        return operation.operator, operation.args
    return "select", (x, dim, int(kept[: index % x.shape[dim]].sum()))


def _convolution(operation: Operation, remaining: Remaining) -> Called:
    x, weight, *rest, groups = operation.args
    return "convolution", (x, weight, *rest, _blocks(weight, groups, remaining))


def _group_norm(operation: Operation, remaining: Remaining) -> Called:
    x, groups, weight, *rest = operation.args
    return "group_norm", (x, _blocks(weight, groups, remaining), weight, *rest)


def _blocks(weight: Any, groups: int, remaining: Remaining) -> int:
    """Blocks that stay, where whole ones may go."""
    name = remaining.flow.name_of(weight)
    if name not in remaining.flow.blocks:
        return groups
    # A grouped transposed convolution and a norm count them by their first axis, like any other.
    return groups * remaining.size(weight, 0) // int(weight.shape[0])


def _layer_norm(operation: Operation, remaining: Remaining) -> Called:
    x, shape, *rest = operation.args
    return operation.operator, (x, remaining.shape(x)[x.dim() - len(shape) :], *rest)


def _created(operation: Operation, remaining: Remaining) -> Called:
    at = 1 if operation.operator.startswith("new_") else 0
    args = list(operation.args)
    args[at] = remaining.shape(operation.outputs[0])
    return operation.operator, tuple(args)


def _looked_up(operation: Operation, remaining: Remaining) -> Called:
    if operation.operator == "index":
        x, indices = operation.args
        dims = [dim for dim, each in enumerate(indices) if each is not None]
        dim, chosen = dims[0], indices[dims[0]]
    else:
        x, dim, chosen = operation.args
    numbers = remaining.flow.numbers_in(chosen)
    kept = remaining.kept(x, dim % x.dim())
    if kept is None or kept.all() or numbers is None:
        return operation.operator, operation.args
    return "index_select", (x, dim, (np.cumsum(kept) - 1)[numbers[kept[numbers]]].tolist())


def _pad(operation: Operation, remaining: Remaining) -> Called:
    x, amounts, *rest = operation.args
    amounts = list(amounts)
    for dim in range(x.dim()):
        at = 2 * (x.dim() - 1 - dim)
        kept = remaining.kept(operation.outputs[0], dim)
        if at < len(amounts) and kept is not None and any(amounts[at : at + 2]):
            before, after = amounts[at : at + 2]
            amounts[at : at + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
    return operation.operator, (x, amounts, *rest)


def _roll(operation: Operation, remaining: Remaining) -> Called:
    x, shifts, dims = (*operation.args, [])[:3]
    changed = []
    for shift, dim in zip(_listed(shifts), _listed(dims), strict=False):
        kept = remaining.kept(x, dim % x.dim())
        changed.append(shift if kept is None else int(kept[len(kept) - shift % len(kept) :].sum()))
    return "roll", (x, changed or shifts, dims)


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


RESIZED: dict[str, Callable[[Operation, Remaining], Called]] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), _view),
    "expand": _expand,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split"), _split),
    "slice": _slice,
    "select": _select,
    "convolution": _convolution,
    "group_norm": _group_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(
        ("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"), _created
    ),
    **dict.fromkeys(("index", "index_select"), _looked_up),
    "constant_pad_nd": _pad,
    "roll": _roll,
}
