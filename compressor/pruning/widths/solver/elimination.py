"""Exact best choice for all groups by variable elimination, where the value is a sum of small tables.

A group is eliminated by computing its best choice for each combination of its neighbours' choices: the result is one
table over the neighbours. In chains and residual stages these tables never exceed a stage and two layers; in a
network where every layer reads every other they do, and such a network is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.widths.solver.terms import Choices, Numbers, Scope, Terms

LARGEST = 3_000_000
"""Entries of the largest intermediate table; 24 MB."""


@dataclass(frozen=True)
class Step:
    """One eliminated group, and the groups that its best choice depends on."""

    group: int
    around: Scope


def order_of(scopes: Iterable[Scope], choices: Choices) -> tuple[Step, ...] | None:
    """The elimination order: always the group with the smallest table next. None where tables grow too large."""
    around: dict[int, set[int]] = {group: set() for group in range(len(choices))}
    for scope in scopes:
        for group in scope:
            around[group] |= {other for other in scope if other != group}

    def entries(group: int) -> int:
        return math.prod(choices.shape((group, *around[group])))

    steps: list[Step] = []
    while around:
        group = min(around, key=entries)
        if entries(group) > LARGEST:
            return None
        neighbours = around.pop(group)
        for other in neighbours:
            around[other] |= neighbours - {other}
            around[other].discard(group)
        steps.append(Step(group, tuple(sorted(neighbours))))
    return tuple(steps)


def most(terms: Terms, choices: Choices, order: tuple[Step, ...]) -> tuple[float, list[int]]:
    """The largest sum of the terms, and each group's choice (its place among the choices) in it."""
    tables = dict(terms)
    total = float(tables.pop((), np.zeros(())))
    answers: list[tuple[Step, NDArray[np.intp]]] = []
    for step in order:
        own = [scope for scope in tables if step.group in scope]
        scope = (step.group, *step.around)
        joined = np.zeros(choices.shape(scope))
        for each in own:
            joined = joined + _spread(tables.pop(each), each, scope)
        answers.append((step, joined.argmax(axis=0)))
        left = joined.max(axis=0)
        if step.around:
            tables[step.around] = tables[step.around] + left if step.around in tables else left
        else:
            total += float(left)
    places = [0] * len(choices)
    for step, answer in reversed(answers):
        places[step.group] = int(answer[tuple(places[other] for other in step.around)])
    return total, places


def cheapest(terms: Terms, choices: Choices, order: tuple[Step, ...]) -> list[int]:
    """The places of the choices with the least cost."""
    return most({scope: -table for scope, table in terms.items()}, choices, order)[1]


def _spread(table: Numbers, scope: Scope, wider: Scope) -> Numbers:
    """The table with its axes in the order of ``wider``; groups that it does not depend on get an axis of size 1."""
    order = sorted(range(len(scope)), key=lambda axis: wider.index(scope[axis]))
    held = set(scope)
    shape = [table.shape[scope.index(group)] if group in held else 1 for group in wider]
    return table.transpose(order).reshape(shape)
