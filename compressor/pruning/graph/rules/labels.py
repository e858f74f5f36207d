"""Labels: which channel an index along a dimension belongs to, and which channels are one.

Every index along every axis of every tensor that the network owns is an *atom*, a number. The labels of a tensor map
a dimension to an array with the atom of each of its indices; a dimension that is absent is plain (batch, space,
anything fixed). Where two labelled dimensions were merged into one, the array has a column for each: an index stays
if all its atoms stay. While the recorded operators are walked, atoms are only ever joined or frozen, and both are
merely noted; the classes are solved once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Labels = dict[int, Ids]

NOT_A_CHANNEL = ""
"""The reason for axes that never were channels (kernel height and width): frozen, and not worth a line."""


@dataclass
class Ledger:
    """Hands out atoms, and notes which are one and which may not go.

    The rule between calls: atoms are numbered in the order in which axes are registered, so that
    ``axes`` and ``starts`` together say which tensor, axis and index an atom is.
    """

    axes: list[tuple[str, int]] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)
    _whole: dict[int, int] = field(default_factory=dict)
    _same: list[tuple[int, int]] = field(default_factory=list)
    _kept: list[Ids] = field(default_factory=list)
    _left: list[Ids] = field(default_factory=list)
    _right: list[Ids] = field(default_factory=list)

    def register(self, tensor: str, shape: tuple[int, ...]) -> Labels:
        """Fresh atoms for every axis of a named tensor that could be cut: one index cannot, and it broadcasts."""
        return {axis: self._atoms(tensor, axis, size) for axis, size in enumerate(shape) if size > 1}

    def unnamed(self, size: int) -> Ids:
        """Fresh atoms for a dimension that no tensor of the network makes."""
        return self._atoms("", 0, size)

    def _atoms(self, tensor: str, axis: int, size: int) -> Ids:
        start = self.starts[-1]
        ids = np.arange(start, start + size)
        self._whole[id(ids)] = len(self.axes)
        self._kept.append(ids)
        self.axes.append((tensor, axis))
        self.starts.append(start + size)
        return ids

    def join(self, one: Ids, other: Ids) -> None:
        """Declare that the atoms of two arrays are pairwise the same channel."""
        if one is other:
            return
        whole, also = self._whole.get(id(one)), self._whole.get(id(other))
        if whole is not None and also is not None and len(one) == len(other):
            self._same.append((whole, also))
            return
        if one.shape != other.shape:
            one, other = np.broadcast_arrays(one, other)
        self._left.append(one.ravel())
        self._right.append(other.ravel())

    def freeze(self, ids: Ids, reason: str) -> None:
        """Declare that these atoms may not go, and why. The first reason given stays."""
        self._frozen.append((ids.ravel(), reason))

    def owners(self) -> tuple[Ids, Ids]:
        """For every atom the number of its axis in ``axes``, and its index along that axis."""
        sizes = np.diff(self.starts)
        axis = np.repeat(np.arange(len(sizes)), sizes)
        return axis, np.arange(self.starts[-1]) - np.asarray(self.starts)[axis]

    def reasons(self, classes: Ids) -> tuple[Ids, list[str]]:
        """For every class the number of the reason why it may not go, or -1; and the reasons.

        A real reason wins over ``NOT_A_CHANNEL`` (which comes last), the first given over later ones.
        """
        said: dict[str, list[Ids]] = {reason: [] for _, reason in self._frozen if reason}
        texts = [*said, NOT_A_CHANNEL]
        said[NOT_A_CHANNEL] = []
        for ids, reason in self._frozen:
            said[reason].append(ids)
        first = np.full(len(classes), -1)
        for number, text in reversed(
            list(enumerate(texts))
        ):  # what is said first is written last, over the rest
            if said[text]:
                first[classes[np.concatenate(said[text])]] = number
        return first, texts

    def families(self) -> list[int]:
        """For every axis the first one that is the same as it from end to end.

        Most joins tie whole axes (a norm to its convolution), and there are far fewer axes than atoms.
        """
        root = list(range(len(self.axes)))

        def top(axis: int) -> int:
            while root[axis] != axis:
                root[axis] = root[root[axis]]
                axis = root[axis]
            return axis

        for one, other in self._same:
            low, high = sorted((top(one), top(other)))
            root[high] = low
        return [top(axis) for axis in root]

    def joined_singly(self) -> list[Ids]:
        """The atoms that were joined other than by whole axes, with repetitions."""
        return [*self._left, *self._right]

    def axis_made_by(self, ids: Ids) -> int | None:
        """The axis that these labels are the whole of, if they were handed out as such."""
        return self._whole.get(id(ids))

    def _at_their_place(self) -> Ids:
        """For every atom the one at its place in the first axis of its family."""
        starts = np.array(self.starts)
        tops = np.array(self.families(), dtype=np.int64)
        shift = starts[:-1] - starts[tops] if len(tops) else starts[:0]
        place = np.arange(self.starts[-1])
        place -= np.repeat(shift, np.diff(starts))
        return place

    def classes(self) -> Ids:
        """For every atom the smallest atom it is joined with."""
        parent = self._at_their_place()
        if not self._left:
            return parent
        left, right = parent[np.concatenate(self._left)], parent[np.concatenate(self._right)]
        nodes = np.concatenate([left, right])
        # Minimum-label hooking with pointer jumping: each round every edge pulls the larger root to
        # the smaller one, and chains are flattened; a few rounds suffice whatever the graph.
        while True:
            root_left, root_right = parent[left], parent[right]
            apart = root_left != root_right
            if not apart.any():
                return parent[parent]
            left, right = root_left[apart], root_right[apart]
            low, high = np.minimum(left, right), np.maximum(left, right)
            np.minimum.at(parent, high, low)
            while True:
                above = parent[nodes]
                jumped = parent[above]
                if np.array_equal(jumped, above):
                    break
                parent[nodes] = jumped
