"""A cost as a sum of small tables: one for each set of groups that meet in a layer.

The search looks up tables, because building networks would take too long. A layer's time depends on the channels that
it reads and on those that it writes, so its table has an axis for each of the two groups; a cost of one group alone
has one axis. Where a layer reads many groups at once (a concatenation), its cost is linear in the channels it reads,
so it becomes a sum of tables, one per group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.graph.channels import Factor
from compressor.pruning.graph.cost import Cost, Widths

Numbers = NDArray[np.float64]
Scope = tuple[int, ...]

LARGEST_TABLE = 300_000
"""Largest number of entries of one layer's table; a larger table is split into a sum."""


@dataclass(frozen=True)
class Choices:
    """The widths that each group may have, rising, in units."""

    of: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.of)

    def shape(self, scope: Scope) -> tuple[int, ...]:
        """The number of choices of each group of the scope."""
        return tuple(len(self.of[group]) for group in scope)


Terms = dict[Scope, Numbers]
"""Groups, rising -> the cost of each combination of their choices; the empty scope holds the constant."""


def add(terms: Terms, scope: Scope, table: Numbers) -> None:
    """Add a table over this scope."""
    terms[scope] = terms[scope] + table if scope in terms else table


def sizes(factor: Factor, scope: Scope, choices: Choices) -> Numbers:
    """The factor for every combination of choices of the scope, which contains all groups of the factor."""
    result = np.full((1,) * len(scope), float(factor.constant))
    for group, times in factor.times:
        place = scope.index(group)
        shape = [1] * len(scope)
        shape[place] = -1
        result = result + times * choices.of[group].astype(np.float64).reshape(shape)
    return np.broadcast_to(result, choices.shape(scope))


def scope_of(factors: Iterable[Factor]) -> Scope:
    """The groups that any of the factors depends on."""
    return tuple(sorted({group for factor in factors for group, _ in factor.times}))


def is_small(scope: Scope, choices: Choices) -> bool:
    """True if one table can hold every combination."""
    return math.prod(choices.shape(scope)) <= LARGEST_TABLE


def product_terms(terms: Terms, coefficient: float, factors: Sequence[Factor], choices: Choices) -> None:
    """Add ``coefficient * product(factors)``, exactly."""

    def whole(scope: Scope) -> Numbers:
        table = np.full(choices.shape(scope), coefficient)
        for factor in factors:
            table = table * sizes(factor, scope, choices)
        return table

    scope = scope_of(factors)
    if is_small(scope, choices) or all(len(factor.times) < 2 for factor in factors):
        add(terms, scope, whole(scope))
        return
    for part in apart(factors):
        product_terms(terms, coefficient, part, choices)


def apart(factors: Sequence[Factor]) -> Iterable[list[Factor]]:
    """The same product as a sum: the factor that depends on most groups is expanded."""
    number = max(range(len(factors)), key=lambda at: len(factors[at].times))
    widest = factors[number]
    summands = [Factor(0, (each,)) for each in widest.times]
    if widest.constant:
        summands.append(Factor(widest.constant))
    for summand in summands:
        yield [*factors[:number], summand, *factors[number + 1 :]]


def function_terms(
    terms: Terms,
    function: Callable[[Numbers, Numbers], Numbers],
    out: Factor,
    inner: Factor,
    choices: Choices,
) -> None:
    """Add ``function(out, inner)``; where its table would be too large, interpolate linearly between its ends."""
    scope = scope_of((out, inner))
    if is_small(scope, choices):
        add(terms, scope, function(sizes(out, scope, choices), sizes(inner, scope, choices)))
        return
    least, most = ends(out, choices), ends(inner, choices)
    if len(out.times) > 1:  # a depthwise layer behind a concatenation: along its diagonal
        first, last = (float(function(np.array(least[at]), np.array(most[at]))) for at in (0, 1))
        slope = (last - first) / max(1.0, least[1] - least[0])
        add(terms, (), np.array(first - slope * least[0]))
        product_terms(terms, slope, [out], choices)
        return
    own = scope_of((out,))
    written = sizes(out, own, choices)
    low, high = (function(written, np.full(written.shape, most[at])) for at in (0, 1))
    slopes = (high - low) / max(1.0, most[1] - most[0])
    add(terms, own, low - slopes * (most[0] - inner.constant))
    for group, times in inner.times:
        pair = tuple(sorted({*own, group}))
        read = times * choices.of[group].astype(np.float64)
        if own == (group,):
            add(terms, own, slopes * read)
        elif not own:
            add(terms, pair, slopes * read)
        else:
            table = np.multiply.outer(slopes, read)
            add(terms, pair, table if own[0] < group else table.T)


def ends(factor: Factor, choices: Choices) -> tuple[float, float]:
    """The least and the largest value of the factor."""
    low, high = (factor.at([int(own[end]) for own in choices.of]) for end in (0, -1))
    return float(low), float(high)


def terms_of(cost: Cost, choices: Choices) -> Terms:
    """The tables of a counted cost; they are exact."""
    terms: Terms = {}
    for coefficient, constants, times in zip(cost.coefficients, cost.constants, cost.times, strict=True):
        factors = [
            Factor(int(constant), tuple((int(group), int(row[group])) for group in np.flatnonzero(row)))
            for constant, row in zip(constants, times, strict=True)
        ]
        product_terms(terms, float(coefficient), factors, choices)
    return terms


def looked_up(terms: Terms, choices: Choices, widths: Widths) -> float:
    """The cost of these widths by the tables; they must be among the choices."""
    places = [int(np.searchsorted(own, width)) for own, width in zip(choices.of, widths, strict=True)]
    return float(sum(table[tuple(places[group] for group in scope)] for scope, table in terms.items()))
