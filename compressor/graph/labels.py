"""Labels: which channel an index along a dimension belongs to, and which channels are one.

Every index along every axis of every parameter is an *atom*, a number. The labels of a tensor map a
dimension to an array with the atom of each of its indices; a dimension that is absent is plain
(batch, space, anything fixed). While the recorded operators are walked, atoms are only ever joined
or frozen, and both are merely noted; the classes are solved once at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Labels = dict[int, Ids]


@dataclass
class Ledger:
    """Hands out atoms, and notes which are one and which may not go.

    The rule between calls: atoms are numbered in the order in which axes are registered, so that
    ``axes`` and ``starts`` together say which tensor, axis and index an atom is.
    """

    axes: list[tuple[str, int]] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    reasons: dict[int, str] = field(default_factory=dict)
    _left: list[Ids] = field(default_factory=list)
    _right: list[Ids] = field(default_factory=list)

    def register(self, tensor: str, shape: tuple[int, ...]) -> Labels:
        """Fresh atoms for every axis of a named tensor."""
        labels: Labels = {}
        for axis, size in enumerate(shape):
            start = self.starts[-1]
            self.axes.append((tensor, axis))
            self.starts.append(start + size)
            labels[axis] = np.arange(start, start + size, dtype=np.int64)
        return labels

    def join(self, one: Ids, other: Ids) -> None:
        """Declare that the atoms of two arrays are pairwise the same channel."""
        left, right = np.broadcast_arrays(one, other)
        if left is not right:
            self._left.append(left.ravel())
            self._right.append(right.ravel())

    def freeze(self, ids: Ids, reason: str) -> None:
        """Declare that these atoms may not go, and why. The first reason given stays."""
        for atom in np.unique(ids).tolist():
            self.reasons.setdefault(atom, reason)

    def owners(self) -> tuple[Ids, Ids]:
        """For every atom the number of its axis in ``axes``, and its index along that axis."""
        sizes = np.diff(self.starts)
        axis = np.repeat(np.arange(len(sizes)), sizes)
        return axis, np.arange(self.starts[-1]) - np.asarray(self.starts)[axis]

    def classes(self) -> Ids:
        """For every atom the smallest atom it is joined with."""
        parent = np.arange(self.starts[-1], dtype=np.int64)
        if not self._left:
            return parent
        left, right = np.concatenate(self._left), np.concatenate(self._right)
        # Minimum-label hooking with pointer jumping: each round every edge pulls the larger root to
        # the smaller one, and chains are flattened; a few rounds suffice whatever the graph.
        while True:
            root_left, root_right = parent[left], parent[right]
            apart = root_left != root_right
            if not apart.any():
                return parent
            low = np.minimum(root_left[apart], root_right[apart])
            high = np.maximum(root_left[apart], root_right[apart])
            np.minimum.at(parent, high, low)
            while not np.array_equal(parent, parent[parent]):
                parent = parent[parent]
