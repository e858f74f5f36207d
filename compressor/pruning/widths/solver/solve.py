"""Find the widths of the highest summed scores within the limits: choose the solvers, and bound their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.graph.cost import Cost, Widths
from compressor.pruning.widths.solver import milp
from compressor.pruning.widths.solver.elimination import cheapest, order_of
from compressor.pruning.widths.solver.exchanges import improved
from compressor.pruning.widths.solver.feasible import nearest
from compressor.pruning.widths.solver.lagrange import Limit, Problem, refined, searched
from compressor.pruning.widths.solver.terms import Choices, Terms, terms_of

COARSE = 40
"""Choices of a group during the search for prices; the result is then refined."""
GOOD = 5e-3
"""Largest gap for which HiGHS, which takes half a minute, is not used."""


class Tabled(Protocol):
    """A measured cost (``Latency``, ``FileBytes``) with its own tables."""

    @property
    def name(self) -> str: ...

    def of(self, widths: Widths) -> float:
        """The cost of these widths."""
        ...

    def terms(self, choices: Choices) -> Terms:
        """The same as tables."""
        ...


Costing = Cost | Tabled
"""A cost of widths, counted or measured."""


@dataclass(frozen=True)
class Solution:
    """Widths, their value, an upper bound on the value (None: not known), the solver, and whether they fit the limits.

    ``fits`` is by the tables of the search; of layers with too large tables these are linear, so the cost may differ.
    """

    widths: Widths
    value: float
    bound: float | None
    solver: str
    fits: bool

    @property
    def gap(self) -> float | None:
        """Upper bound on how much more could be kept, as a share."""
        if self.bound is None:
            return None
        return max(0.0, self.bound / self.value - 1) if self.value > 0 else 0.0


def solve(
    choices: Choices, ranked: Sequence[NDArray[np.float64]], costs: Mapping[str, tuple[Costing, float]]
) -> Solution:
    """The choice with the highest sum of scores in which each cost stays within its limit.

    ``ranked``: the scores of each group's units, highest first. Where no choice is found that fits, the nearest one.
    """
    values = [np.concatenate([[0.0], np.cumsum(own)]) for own in ranked]

    def problem_over(some: Choices) -> Problem:
        limits = [Limit(name, _terms(cost, some), allowed) for name, (cost, allowed) in costs.items()]
        return Problem(some, [own[widths] for own, widths in zip(values, some.of, strict=True)], limits)

    coarse = Choices(tuple(_thinned(own) for own in choices.of))
    fine = problem_over(choices)
    found = searched(problem_over(coarse))
    finer = refined(found, fine) if found is not None else None
    starts = [nearest(fine)]
    starts += [
        _places(choices, _widths(some, search.best))
        for some, search in ((coarse, found), (choices, finer))
        if search is not None and search.best is not None
    ]
    bound = finer.bound if finer is not None else None
    solver = "prices" if found is not None else "steps"
    places = improved(fine, _better(fine, starts))
    gap = np.inf if bound is None or not fine.fits(places) else bound / max(fine.value(places), 1e-300) - 1
    if gap > GOOD and milp.is_possible(fine):
        answer = milp.answered(fine)
        if answer is not None:
            solver = "highs"
            bound = answer.bound if bound is None else min(bound, answer.bound)
            places = _better(fine, [places, improved(fine, answer.places)])
    return Solution(_widths(choices, places), fine.value(places), bound, solver, fine.fits(places))


def least_widths(choices: Choices, cost: Costing) -> Widths | None:
    """The widths of the least cost: the narrowest, except for a measured cost, which may rise as layers get narrower.

    None where exact elimination would be too large.
    """
    if isinstance(cost, Cost):
        return _widths(choices, [0] * len(choices))
    for some in (choices, Choices(tuple(_thinned(own) for own in choices.of))):
        tables = cost.terms(some)
        order = order_of(tables, some)
        if order is not None:
            return _widths(some, cheapest(tables, some, order))
    return None


def _widths(choices: Choices, places: Sequence[int]) -> Widths:
    return np.array([own[place] for own, place in zip(choices.of, places, strict=True)], dtype=np.int64)


def _places(choices: Choices, widths: Widths) -> list[int]:
    return [int(np.searchsorted(own, width)) for own, width in zip(choices.of, widths, strict=True)]


def _better(problem: Problem, candidates: Sequence[list[int]]) -> list[int]:
    """The candidate of the highest value that fits; where none fits, the nearest to the limits."""
    fitting = [places for places in candidates if problem.fits(places)]
    if fitting:
        return max(fitting, key=problem.value)
    return min(candidates, key=lambda places: float(problem.costs(places).max()))


def _terms(cost: Costing, choices: Choices) -> Terms:
    return terms_of(cost, choices) if isinstance(cost, Cost) else cost.terms(choices)


def _thinned(widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``COARSE`` of the widths, evenly, with both ends."""
    if len(widths) <= COARSE:
        return widths
    return widths[np.unique(np.linspace(0, len(widths) - 1, COARSE).round().astype(int))]
