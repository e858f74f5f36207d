"""Lagrangian relaxation: widths of the highest value within every limit, with an upper bound on the value.

Each limit gets a price. For fixed prices the best widths are found exactly (``elimination``). Their value minus the
price of what they exceed the limits by is an upper bound on the value of any widths within the limits. The prices
with the smallest bound give widths near the limits; single steps and exchanges use up the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.widths.solver.elimination import Step, most, order_of
from compressor.pruning.widths.solver.terms import Choices, Numbers, Terms, add

BISECTIONS = 40
POLYAK_STEPS = 80
EPSILON = 1e-9


@dataclass(frozen=True)
class Limit:
    """A cost as tables, and its largest allowed value."""

    name: str
    terms: Terms
    allowed: float


@dataclass(frozen=True)
class Problem:
    """``values[group][place]``: the value of the group at that choice."""

    choices: Choices
    values: Sequence[Numbers]
    limits: Sequence[Limit]

    def value(self, places: Sequence[int]) -> float:
        """The total value of these choices."""
        return float(sum(own[place] for own, place in zip(self.values, places, strict=True)))

    def costs(self, places: Sequence[int]) -> NDArray[np.float64]:
        """Each cost as a share of its limit."""
        return np.array(
            [
                sum(
                    float(table[tuple(places[group] for group in scope)])
                    for scope, table in limit.terms.items()
                )
                / limit.allowed
                for limit in self.limits
            ]
        )

    def fits(self, places: Sequence[int]) -> bool:
        """True if every limit is met."""
        return bool((self.costs(places) <= 1 + EPSILON).all())


@dataclass
class Search:
    """State of the search: the best choice that fits, and the least bound with its prices."""

    problem: Problem
    order: tuple[Step, ...]
    best: list[int] | None = None
    value: float = -np.inf
    bound: float = np.inf
    prices: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def ask(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the best widths at these prices; return the excess of each cost over its limit, as a share."""
        problem = self.problem
        terms: Terms = {(group,): own for group, own in enumerate(problem.values)}
        for price, limit in zip(prices, problem.limits, strict=True):
            if price > 0:
                for scope, table in limit.terms.items():
                    add(terms, scope, table * (-price / limit.allowed))
        total, places = most(terms, problem.choices, self.order)
        bound = total + float(prices.sum())
        if bound < self.bound:
            self.bound, self.prices = bound, prices
        over = problem.costs(places) - 1
        value = problem.value(places)
        if (over <= EPSILON).all() and value > self.value:
            self.best, self.value = places, value
        return over

    def by_bisection(self, number: int, low: float, high: float, steps: int) -> None:
        """Search one price by bisection; the others are 0."""
        prices = np.zeros(len(self.problem.limits))
        for _ in range(steps):
            prices = prices.copy()
            prices[number] = np.sqrt(low * high)
            if self.ask(prices)[number] > EPSILON:
                low = prices[number]
            else:
                high = prices[number]
            if high / low < 1 + 1e-7:
                break

    def by_polyak(self, start: NDArray[np.float64], steps: int) -> None:
        """Search all prices at once by Polyak's subgradient steps: the step size is the gap of bound and best value."""
        prices = start
        for step in range(steps):
            over = self.ask(prices)
            known = self.value if self.best is not None else self.bound - abs(self.bound) * 0.5
            room = max(self.bound - known, EPSILON) / (1 + step / 10)
            norm = float((over * over).sum())
            if norm < EPSILON:
                break
            prices = np.maximum(0.0, prices + over * room / norm)


def searched(problem: Problem) -> Search | None:
    """The search over all prices; None where the tables of exact elimination would be too large."""
    scopes = [scope for limit in problem.limits for scope in limit.terms]
    order = order_of(scopes, problem.choices)
    if order is None:
        return None
    search = Search(problem, order)
    if (search.ask(np.zeros(len(problem.limits))) <= EPSILON).all():
        return search  # everything fits
    top = max(problem.value([len(own) - 1 for own in problem.choices.of]), EPSILON)
    starts = []
    for number in range(len(problem.limits)):
        alone = Search(problem, order)
        alone.by_bisection(number, top * 1e-6, top * 1e4, BISECTIONS)
        starts.append(alone)
    # Often one limit is the tightest, and its search alone is good enough.
    tightest = min(starts, key=lambda each: each.bound)
    search = tightest
    if len(problem.limits) > 1 and (
        search.best is None or search.bound - search.value > 1e-3 * abs(search.bound)
    ):
        search.by_polyak(search.prices, POLYAK_STEPS)
    return search


def refined(coarse: Search, problem: Problem) -> Search | None:
    """Search finer choices, starting from the coarse prices: a bound and better widths. None if they are too many."""
    order = order_of([scope for limit in problem.limits for scope in limit.terms], problem.choices)
    if order is None:
        return None
    search = Search(problem, order)
    search.ask(coarse.prices)
    used = np.flatnonzero(coarse.prices > 0)
    if len(used) == 1:
        price = float(coarse.prices[used[0]])
        search.by_bisection(int(used[0]), price / 1.3, price * 1.3, 10)
    elif len(used):
        search.by_polyak(coarse.prices, 10)
    return search
