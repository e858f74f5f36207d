"""Groups of channels: classes of atoms gathered into units with the same slots, and sizes counted by group.

There are hundreds of thousands of atoms and a few hundred axes. Where whole axes were joined end to end (nearly
everywhere in a convolutional network) everything is decided axis by axis; single atoms are only looked at in what is
left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from compressor.pruning.graph.channels import Factor, Indices
from compressor.pruning.graph.rules.flow import Flow
from compressor.pruning.graph.rules.labels import NOT_A_CHANNEL, Ids


@dataclass(frozen=True)
class Units:
    """Classes with the same slots. A slot: the number of an axis, and what each unit (row) owns along it.

    ``family``: the first of the axes, where the units are these axes from end to end.
    """

    roots: Ids
    slots: list[tuple[int, Indices]]
    reason: str | None
    family: int | None = None


class Members:
    """The atoms of a walk by axis, class and, once `assign` was told, by group."""

    def __init__(self, flow: Flow, classes: Ids) -> None:
        ledger = flow.ledger
        self.flow, self.classes, self.ledger = flow, classes, ledger
        self.starts = np.array(ledger.starts)
        self.sizes = np.diff(self.starts)
        self._spans = list(pairwise(ledger.starts))
        self.named = np.array([bool(tensor) for tensor, _ in ledger.axes], dtype=bool)
        self.family = np.array(ledger.families(), dtype=np.int64)
        self.why, self.reasons = ledger.reasons(classes)
        self.loose = self._loose()
        self.units: list[int] = []
        self._assigned: list[Ids] = []
        self._numbers = {axis: number for number, axis in enumerate(ledger.axes) if axis[0]}
        self._factors: dict[int, Factor] = {}

    def alike(self) -> Iterator[Units]:
        """Units by their slots, in the order of their first atom, without what never was a channel."""
        found = [*self._by_axes(), *self._by_atoms()]
        yield from sorted(found, key=lambda units: int(units.roots[0]))

    def assign(self, units: Units) -> None:
        """These units are the next group."""
        self._assigned.append(units.roots)
        self.units.append(len(units.roots))
        if units.family is not None:
            self._factors[units.family] = Factor(0, ((len(self.units) - 1, 1),))

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

    def factors(self, ids: Ids | int) -> tuple[Factor, ...]:
        """The size of a dimension, as it follows the cut: of one that was merged from several, each one's size."""
        if isinstance(ids, int):
            return (Factor(ids),)
        if ids.ndim > 1:
            columns = [np.unique(column) for column in ids.reshape(len(ids), -1).T]
            if math.prod(map(len, columns)) == len(ids):
                return tuple(self._counted(column) for column in columns)
            # The same channels again and again: what follows the cut is not a product of sizes.
            return (Factor(len(ids)),)
        axis = self.ledger.axis_made_by(ids)
        return (self._counted(ids) if axis is None else self.factor_of_axis(axis),)

    def factor_of_axis(self, axis: int) -> Factor:
        """The size of a whole axis, as it follows the cut."""
        family = int(self.family[axis])
        if family not in self._factors:
            self._factors[family] = self._counted(np.arange(self.starts[family], self.starts[family + 1]))
        return self._factors[family]

    @cached_property
    def group_of(self) -> Ids:
        """For every class the number of its group, or -1. To be asked for once all are assigned."""
        groups = np.full(len(self.classes), -1)
        for group, roots in enumerate(self._assigned):
            groups[roots] = group
        return groups

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
        """True for the families of axes that must be examined atom by atom."""
        loose = np.zeros(len(self.sizes), dtype=bool)
        singly = self.ledger.joined_singly()
        # What a product without weights reads is told from what it does not: otherwise the cost of a product over
        # half of a group's channels would depend on which units stay.
        singly += [size.ravel() for size in self._partial_reads()]
        if singly:
            atoms = np.zeros(len(self.classes), dtype=bool)
            atoms[np.concatenate(singly)] = True
            loose[self.family[np.logical_or.reduceat(atoms, self._beginnings())]] = True
        return loose

    def _beginnings(self) -> Ids:
        """The first atom of every axis, for sums from one to the next; an empty axis at the end has none."""
        return np.minimum(self.starts[:-1], len(self.classes) - 1)

    def _partial_reads(self) -> list[Ids]:
        """Labels of sizes that may cover some units of a group and not others."""
        return [
            size
            for multiply in self.flow.multiplies
            for size in multiply.sizes
            if not isinstance(size, int)
            and (multiply.kind == "matrix product" or self._part_of_an_axis(size))
        ]

    def _part_of_an_axis(self, ids: Ids) -> bool:
        """True for a slice of an axis, as where a layer reads a part of a parameter."""
        if self.ledger.axis_made_by(ids) is not None:
            return False
        axes, counts = np.unique(self._axis_of(ids.ravel()), return_counts=True)
        return bool((counts % self.sizes[axes]).any())

    def _reason(self, codes: Ids) -> str | None:
        said = codes[codes >= 0]
        return self.reasons[int(said.min())] if len(said) else None

    def _by_axes(self) -> Iterator[Units]:
        axes_of: dict[int, list[int]] = {}
        for axis, (family, named) in enumerate(zip(self.family.tolist(), self.named.tolist(), strict=True)):
            if named and not self.loose[family]:
                axes_of.setdefault(family, []).append(axis)
        if not axes_of:
            return
        begins = self._beginnings()
        lowest, highest = (of.reduceat(self.why, begins).tolist() for of in (np.minimum, np.maximum))
        for family, axes in axes_of.items():
            start, end = self._spans[family]
            code = lowest[family]
            if start == end:
                continue
            if code != highest[family]:
                self.loose[family] = True  # some of it may not go: told apart below
                continue
            reason = None if code < 0 else self.reasons[code]
            self._factors[family] = Factor(end - start)  # if it is not assigned to a group
            if reason != NOT_A_CHANNEL:
                column = np.arange(end - start)[:, None]
                yield Units(np.arange(start, end), [(axis, column) for axis in axes], reason, family)

    def _by_atoms(self) -> Iterator[Units]:
        """A class's slots are compared through the sum of one random number for each of its atoms' axes."""
        named: dict[int, list[int]] = {}
        for axis in np.flatnonzero(self.loose[self.family] & self.named).tolist():
            named.setdefault(int(self.family[axis]), []).append(axis)
        if not named:
            return
        # Axes of one family are alike: one of them is looked at for all.
        axis_of, atoms = self._atoms_along(np.array(list(named)))
        wanted = self.why[self.classes[atoms]] != len(self.reasons) - 1
        axis_of, atoms = axis_of[wanted], atoms[wanted]
        if not len(atoms):
            return
        order = np.argsort(self.classes[atoms], kind="stable")
        axis_of, atoms = axis_of[order], atoms[order]
        sorted_roots = self.classes[atoms]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(sorted_roots)) + 1])
        counts = np.diff(np.concatenate([starts, [len(atoms)]]))
        roots = sorted_roots[starts]
        marks = np.random.default_rng(0).integers(1, 2**62, len(self.sizes))
        signatures = np.add.reduceat(marks[axis_of], starts) + self._marks_of_reads(roots)
        # Units that must stay, with those that must for the same reason.
        signatures += (self.why[roots] + 1) * int(marks.sum() | 1)
        _, first, which = np.unique(signatures, return_index=True, return_inverse=True)
        numbers = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
        for units in (numbers[place] for place in np.argsort(first).tolist()):
            places = starts[units][:, None] + np.arange(counts[units[0]])
            axes = axis_of[places[0]]
            indices = atoms[places] - self.starts[axes]
            bounds = [0, *(np.flatnonzero(np.diff(axes)) + 1).tolist(), len(axes)]
            slots = [(axis, indices[:, a:b]) for a, b in pairwise(bounds) for axis in named[int(axes[a])]]
            slots.sort(key=lambda slot: slot[0])
            yield Units(roots[units], slots, self._reason(self.why[roots[units]]))

    def _atoms_along(self, axes: Ids) -> tuple[Ids, Ids]:
        """The atoms of these axes, one axis after the other, and beside each the number of its axis."""
        sizes = self.sizes[axes]
        before = np.cumsum(sizes) - sizes
        axis_of = np.repeat(axes, sizes)
        return axis_of, np.arange(len(axis_of)) + np.repeat(self.starts[axes] - before, sizes)

    def _marks_of_reads(self, roots: Ids) -> Ids:
        reads = self._partial_reads()
        if not reads:
            return np.zeros(len(roots), dtype=np.int64)
        found = np.zeros(len(self.classes), dtype=np.int64)
        marks = np.random.default_rng(1)
        for size in reads:
            np.add.at(found, self.classes[size.ravel()], marks.integers(1, 2**62))
        return found[roots]
