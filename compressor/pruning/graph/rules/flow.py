"""Labels on their way through a recording: what the rules read and write.

A rule sees one operation, reads the labels of its inputs, joins or freezes channels, and gives labels
to its outputs. This file holds what the rules share; the rules themselves are listed in ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.pruning.graph.channels import Unsupported
from compressor.pruning.graph.recording.operation import Operation, Recording, tensors_in
from compressor.pruning.graph.rules.labels import Ids, Labels, Ledger


@dataclass(frozen=True)
class Multiply:
    """A multiplying operator as the rules saw it: MACs are ``positions`` times the product of ``sizes``.

    A size is an array of labels or a number; the first is what the operator writes. ``makes`` says whether that is
    an axis of a weight.
    """

    operation: Operation
    kind: str
    positions: int
    sizes: tuple[Ids | int, ...]
    makes: bool = True


@dataclass(frozen=True)
class Split:
    """Channels lying over several dimensions, not yet tied: they may be merged again, in another order.

    ``source`` and ``dim`` are where they lay along one dimension; ``sizes`` the box that they were split into, and
    ``dims`` where each side of it is now. ``position`` is the operation that split them.
    """

    source: Tensor
    dim: int
    sizes: tuple[int, ...]
    dims: tuple[int, ...]
    position: int


@dataclass
class Flow:
    """The state of one walk: labels by tensor, the ledger, and what was met on the way.

    ``whole_heads`` are the numbers of the operations that split channels into heads of which whole ones shall go.
    """

    recording: Recording
    whole_heads: frozenset[int] = frozenset()
    ledger: Ledger = field(default_factory=Ledger)
    multiplies: list[Multiply] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=dict)
    unsupported: list[Unsupported] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    splits: list[tuple[int, Ids]] = field(default_factory=list)
    inside_heads: list[Ids] = field(default_factory=list)
    shuffles: dict[int, tuple[Split, Ids]] = field(default_factory=dict)
    position: int = 0
    own: set[int] = field(default_factory=set)
    written: dict[int, int] = field(default_factory=dict)
    _labels: dict[int, Labels] = field(default_factory=dict)
    _pending: dict[int, Split] = field(default_factory=dict)

    def of(self, tensor: Any) -> Labels:
        """The labels of a tensor; one that the network owns gets fresh ones when it is first met."""
        labels = self._labels.get(id(tensor))
        if labels is not None:
            if id(tensor) in self._pending:
                return self._settled(tensor, labels)
            return labels
        name = self.recording.names.get(id(tensor))
        if name is None:
            return {}
        shape = tuple(tensor.shape)
        self.shapes[name] = shape
        labels = self.ledger.register(name, shape)
        self._labels[id(tensor)] = labels
        return labels

    def give(self, tensor: Tensor, labels: Labels) -> None:
        """Set the labels of a result."""
        self._labels[id(tensor)] = labels

    def split_of(self, tensor: Tensor) -> Split | None:
        """The split of a tensor whose channels lie over several dimensions, while they do."""
        return self._pending.get(id(tensor))

    def give_split(self, tensor: Tensor, labels: Labels, split: Split) -> None:
        """Set the labels of a result whose channels lie over several dimensions."""
        self._labels[id(tensor)] = labels
        self._pending[id(tensor)] = split

    def labels_beside(self, tensor: Tensor) -> Labels:
        """The labels of the dimensions that a split does not take part in."""
        return self._labels[id(tensor)]

    def _settled(self, tensor: Tensor, labels: Labels) -> Labels:
        """Tie split channels over all sides of their box but one, so that what remains is a box again."""
        split = self._pending.pop(id(tensor))
        box = self.of(split.source)[split.dim].reshape(split.sizes)
        wide = [axis for axis, size in enumerate(split.sizes) if size > 1]
        chosen = wide[-2] if split.position in self.whole_heads else wide[-1]
        first = box[tuple(slice(None) if axis == chosen else slice(0, 1) for axis in range(box.ndim))]
        self.ledger.join(box, first)
        self.splits.append((split.position, first.ravel()))
        labels = {**labels, split.dims[chosen]: first.ravel()}
        self._labels[id(tensor)] = labels
        return labels

    def name_of(self, tensor: Any) -> str | None:
        """The name of a tensor that the network owns."""
        return self.recording.names.get(id(tensor))

    def is_own(self, tensor: Any) -> bool:
        """True if a tensor is the network's own or was computed from own tensors only: a weight, not an activation."""
        return id(tensor) in self.own or id(tensor) in self.recording.names

    def note_own(self, operation: Operation) -> None:
        """Results of an operation on nothing but own tensors are own too."""
        if not operation.args or not self.is_own(operation.args[0]):
            return
        if all(self.is_own(tensor) for tensor in tensors_in(operation.args)):
            self.own.update(map(id, operation.outputs))

    def numbers_in(self, tensor: Any) -> Ids | None:
        """The values of a list of indices, where the network owns it or has it in its Python."""
        known = self.recording.integers.get(id(tensor), self.recording.constants.get(id(tensor)))
        if known is None or known.dim() != 1 or known.dtype != torch.int64:
            return None
        return known.cpu().numpy()

    def freeze(self, tensor: Any, reason: str, dims: Iterable[int] | None = None) -> None:
        """Forbid cutting what lies along these dimensions (all, if none are given)."""
        labels = self.of(tensor)
        for dim in labels if dims is None else dims:
            if dim in labels:
                self.ledger.freeze(labels[dim], reason)

    def tie(self, one: Ids | None, other: Ids | None, reason: str) -> Ids | None:
        """Two dimensions that must stay equal: join them, or freeze the one that meets a fixed size."""
        if one is not None and other is not None:
            if one.shape == other.shape:
                self.ledger.join(one, other)
                return one
            return self._match_columns(one, other)
        for ids in (one, other):
            if ids is not None:
                self.ledger.freeze(ids, reason)
        return None

    def combine(self, tensors: Sequence[Tensor], dims: int, reason: str, *, last: int = 0) -> Labels:
        """The labels of what tensors give together by broadcasting to ``dims`` dimensions, the ``last`` left out."""
        if len(tensors) == 1 and tensors[0].dim() == dims:
            return self.of(tensors[0])
        result: Labels = {}
        for dim in range(dims - last):
            met: list[Ids] = []
            fixed = False
            for tensor in tensors:
                own = dim - (dims - tensor.dim())
                if own < 0 or tensor.shape[own] == 1:
                    continue
                ids = self.of(tensor).get(own)
                if ids is None:
                    fixed = True
                else:
                    met.append(ids)
            if fixed:
                for ids in met:
                    self.ledger.freeze(ids, reason)
            elif met:
                tied: Ids | None = met[0]
                for ids in met[1:]:
                    tied = self.tie(tied, ids, reason)
                if tied is not None:
                    result[dim] = tied
        return result

    def flexible(self, tensor: Tensor, dims: Iterable[int]) -> Labels:
        """Atoms of their own for dimensions along which all values are equal: they take any size they meet."""
        return {dim: self.ledger.unnamed(tensor.shape[dim]) for dim in dims if tensor.shape[dim] > 1}

    def _match_columns(self, one: Ids, other: Ids) -> Ids | None:
        """Dimensions merged in different ways: columns that vary alike are one, the others stay whole.

        A dimension that was never split (the vector of a spectral norm) follows the column with the most channels.
        """
        matched: Ids | None
        columns = [list(ids.reshape(len(ids), -1).T) for ids in (one, other)]
        single, several = sorted(columns, key=len)
        if len(single) == 1:
            alike = [column for column in several if _vary_alike(single[0], column)]
            best = alike[0] if alike else max(several, key=lambda column: len(np.unique(column)))
            self.ledger.join(single[0], best)
            rest, matched = [column for column in several if column is not best], single[0]
        else:
            pairs = [(a, b) for a in single for b in several if _vary_alike(a, b)][:1]
            for a, b in pairs:
                self.ledger.join(a, b)
            used = {id(column) for pair in pairs for column in pair}
            rest = [column for column in (*single, *several) if id(column) not in used]
            matched = pairs[0][0] if pairs else None
        for column in rest:
            self.ledger.freeze(column, "it is merged with another dimension")
        return matched


def _vary_alike(one: Ids, other: Ids) -> bool:
    pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))


def first_output(operation: Operation) -> Tensor:
    """The result that carries the channels; further results (saved statistics, indices) do not."""
    return operation.outputs[0]


def leave_whole(flow: Flow, operation: Operation, reason: str = "") -> None:
    """The rule of an operator without one: everything it touches is left whole."""
    where = f"`{operation.module}`" if operation.module else "the network itself"
    reason = reason or f"no rule for the operator `{operation.operator}` in {where}"
    for tensor in tensors_in([operation.args, operation.kwargs, list(operation.outputs)]):
        flow.freeze(tensor, reason)
