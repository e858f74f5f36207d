"""Who belongs together: classes of atoms gathered into units with the same slots, and sizes counted by group.

There are hundreds of thousands of atoms and a few hundred axes. Where whole axes were joined end to end (nearly
everywhere in a convolutional network) everything is decided axis by axis; single atoms are only looked at in what is
left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from compressor.graph.channels import Factor, Indices
from compressor.graph.rules.flow import Flow
from compressor.graph.rules.labels import NOT_A_CHANNEL, Ids


@dataclass(frozen=True)
class Units:
    """Classes with the same slots. A slot: the number of an axis, and what each unit (row) owns along it."""

    roots: Ids
    slots: list[tuple[int, Indices]]
    reason: str | None


class Members:
    """The atoms of a walk by axis, class and, once `assign` was told, by group."""

    def __init__(self, flow: Flow, classes: Ids) -> None:
        ledger = flow.ledger
        self.flow, self.classes, self.ledger = flow, classes, ledger
        self.starts = np.array(ledger.starts)
        self.sizes = np.diff(self.starts)
        self.named = np.array([bool(tensor) for tensor, _ in ledger.axes], dtype=bool)
        self.family = np.array(ledger.families(), dtype=np.int64)
        self.why, self.reasons = ledger.reasons(classes)
        self.loose = self._loose()
        self.group_of = np.full(len(classes), -1)
        self.units: list[int] = []
        self._numbers = {axis: number for number, axis in enumerate(ledger.axes) if axis[0]}
        self._factors: dict[int, Factor] = {}

    def alike(self) -> Iterator[Units]:
        """Units by their slots, in the order of their first atom, without what never was a channel."""
        found = [*self._by_axes(), *self._by_atoms()]
        yield from sorted(found, key=lambda units: int(units.roots[0]))

    def assign(self, units: Units, group: int) -> None:
        """These units are the group of this number."""
        self.group_of[units.roots] = group
        self.units.append(len(units.roots))

    def axes_of(self, labels: Sequence[Ids | int]) -> set[int]:
        """The numbers of the axes that these atoms stand on."""
        whole: set[int] = set()
        rest: list[Ids] = []
        for ids in labels:
            if not isinstance(ids, int):
                axis = self.ledger.axis_made_by(ids)
                if axis is None:
                    rest.append(ids.ravel())
                else:
                    whole.add(axis)
        if rest:
            whole.update(self._axis_of(np.concatenate(rest)).tolist())
        return whole

    def axes_of_tensor(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[int | None, int]]:
        """The number of each axis of a tensor, None if nothing read it; and its size."""
        for axis, size in enumerate(shape):
            yield self._numbers.get((name, axis)), size

    def factor(self, ids: Ids | int) -> Factor:
        """The size of a dimension, as it follows the cut."""
        if isinstance(ids, int):
            return Factor(ids)
        if ids.ndim > 1:
            raise AssertionError("a product over merged dimensions")
        axis = self.ledger.axis_made_by(ids)
        return self._counted(ids) if axis is None else self.factor_of_axis(axis)

    def factor_of_axis(self, axis: int) -> Factor:
        """The size of a whole axis, as it follows the cut."""
        family = int(self.family[axis])
        if family not in self._factors:
            self._factors[family] = self._counted(np.arange(self.starts[family], self.starts[family + 1]))
        return self._factors[family]

    def _counted(self, ids: Ids) -> Factor:
        groups = self.group_of[self.classes[ids]]
        if groups[0] == groups[-1] and (groups == groups[0]).all():
            group, count = int(groups[0]), len(groups)
            return Factor(count) if group < 0 else Factor(0, ((group, count // self.units[group]),))
        counts = np.bincount(groups + 1).tolist()
        times = tuple((group, count // self.units[group]) for group, count in enumerate(counts[1:]) if count)
        return Factor(counts[0], times)

    def _axis_of(self, atoms: Ids) -> Ids:
        return np.searchsorted(self.starts, atoms, side="right") - 1

    def _loose(self) -> Ids:
        """Which families of axes must be looked at atom by atom."""
        loose = np.zeros(len(self.sizes), dtype=bool)
        singly = [self.ledger.joined_singly()]
        # What a product without weights reads is told from what it does not: otherwise the cost of a product over
        # half of a group's channels would depend on which units stay.
        singly += [size.ravel() for size in self._partial_reads()]
        atoms = np.concatenate(singly)
        if len(atoms):
            loose[self.family[self._axis_of(atoms)]] = True
        return loose

    def _partial_reads(self) -> list[Ids]:
        return [
            size
            for multiply in self.flow.multiplies
            if multiply.kind == "matrix product"
            for size in multiply.sizes
            if not isinstance(size, int)
        ]

    def _reason(self, codes: Ids) -> str | None:
        said = codes[codes >= 0]
        return self.reasons[int(said.min())] if len(said) else None

    def _by_axes(self) -> Iterator[Units]:
        axes_of: dict[int, list[int]] = {}
        for axis, (family, named) in enumerate(zip(self.family.tolist(), self.named.tolist(), strict=True)):
            if named and not self.loose[family]:
                axes_of.setdefault(family, []).append(axis)
        for family, axes in axes_of.items():
            start, end = int(self.starts[family]), int(self.starts[family + 1])
            codes = self.why[start:end]
            if (codes != codes[:1]).any():
                self.loose[family] = True  # some of it may not go: told apart below
                continue
            reason = self._reason(codes)
            if reason != NOT_A_CHANNEL and end > start:
                column = np.arange(end - start)[:, None]
                yield Units(np.arange(start, end), [(axis, column) for axis in axes], reason)

    def _by_atoms(self) -> Iterator[Units]:
        """A class's slots are compared through the sum of one random number for each of its atoms' axes."""
        axis_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        wanted = (self.loose[self.family] & self.named)[axis_of] if len(axis_of) else axis_of == 0
        atoms = np.flatnonzero(wanted)
        atoms = atoms[self.why[self.classes[atoms]] != len(self.reasons) - 1]
        if not len(atoms):
            return
        roots_of = self.classes[atoms]
        order = np.argsort(roots_of, kind="stable")
        members, sorted_roots = atoms[order], roots_of[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_roots)) + 1])
        counts = np.diff(np.concatenate([starts, [len(members)]]))
        roots = sorted_roots[starts]
        marks = np.random.default_rng(0).integers(1, 2**62, len(self.sizes))
        signatures = np.add.reduceat(marks[axis_of[members]], starts) + self._marks_of_reads(roots)
        # Units that must stay, with those that must for the same reason.
        signatures += (self.why[roots] + 1) * int(marks.sum() | 1)
        _, first, which = np.unique(signatures, return_index=True, return_inverse=True)
        numbers = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
        for units in (numbers[place] for place in np.argsort(first).tolist()):
            rows = members[starts[units][:, None] + np.arange(counts[units[0]])]
            axes = axis_of[rows[0]]
            indices = rows - self.starts[axes]
            bounds = [0, *(np.flatnonzero(np.diff(axes)) + 1).tolist(), len(axes)]
            slots = [(int(axes[a]), indices[:, a:b]) for a, b in pairwise(bounds)]
            yield Units(roots[units], slots, self._reason(self.why[roots[units]]))

    def _marks_of_reads(self, roots: Ids) -> Ids:
        found = np.zeros(len(self.classes), dtype=np.int64)
        marks = np.random.default_rng(1)
        for size in self._partial_reads():
            np.add.at(found, self.classes[size.ravel()], marks.integers(1, 2**62))
        return found[roots]
