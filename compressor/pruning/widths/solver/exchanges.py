"""Local search by single steps and exchanges: improve widths within the limits until nothing better is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.widths.solver.lagrange import EPSILON, Problem
from compressor.pruning.widths.solver.terms import Numbers, Scope

MOST_EXCHANGES = 300


@dataclass(frozen=True)
class Move:
    """Move one group to its next choice up or down: the gain in value, and the cost as shares of the limits."""

    group: int
    place: int
    gain: float
    price: NDArray[np.float64]


class Local:
    """Places that meet the limits, their costs, and the tables of each group."""

    def __init__(self, problem: Problem, places: list[int]) -> None:
        self.problem, self.places = problem, list(places)
        self.costs = problem.costs(places)
        self._tables: list[list[tuple[int, Scope, Numbers]]] = [[] for _ in places]
        for number, limit in enumerate(problem.limits):
            for scope, table in limit.terms.items():
                for group in scope:
                    self._tables[group].append((number, scope, table / limit.allowed))

    def move(self, group: int, by: int) -> Move | None:
        """One step of one group; None at the end of its choices."""
        place = self.places[group] + by
        own = self.problem.values[group]
        if not 0 <= place < len(own):
            return None
        price = np.zeros(len(self.costs))
        for number, scope, table in self._tables[group]:
            now = tuple(self.places[each] for each in scope)
            then = tuple(place if each == group else self.places[each] for each in scope)
            price[number] += table[then] - table[now]
        return Move(group, place, float(own[place] - own[self.places[group]]), price)

    def take(self, move: Move) -> None:
        """Make the step."""
        self.places[move.group] = move.place
        self.costs = self.costs + move.price

    def fill(self) -> None:
        """Widen groups by single steps while one fits, most gain per cost first."""
        while True:
            fitting = [move for move in self._moves(+1) if self._fits(move.price)]
            if not fitting:
                return
            self.take(max(fitting, key=lambda move: move.gain / max(float(move.price.max()), EPSILON)))

    def exchange(self) -> bool:
        """Narrow one group and widen another by a step, where that fits and keeps more; True if one was found."""
        downs, ups = [*self._moves(-1)], [*self._moves(+1)]
        pairs = [
            (up.gain + down.gain, down, up)
            for down in downs
            for up in ups
            if up.group != down.group
            and up.gain + down.gain > EPSILON
            and self._fits(down.price + up.price, 0.01)
        ]
        for _, down, up in sorted(pairs, key=lambda pair: -pair[0]):
            before = self.places[down.group]
            self.take(down)
            again = self.move(up.group, +1)  # the price changes where the two groups share a table
            if again is not None and self._fits(again.price):
                self.take(again)
                return True
            back = self.move(down.group, before - down.place)
            assert back is not None
            self.take(back)
        return False

    def _moves(self, by: int) -> Iterator[Move]:
        for group in range(len(self.places)):
            move = self.move(group, by)
            if move is not None:
                yield move

    def _fits(self, price: NDArray[np.float64], slack: float = 0.0) -> bool:
        return bool((self.costs + price <= 1 + EPSILON + slack).all())


def improved(problem: Problem, places: list[int]) -> list[int]:
    """The places after all steps and exchanges that improve the value."""
    local = Local(problem, places)
    local.fill()
    for _ in range(MOST_EXCHANGES):
        if not local.exchange():
            break
        local.fill()
    return local.places
