"""Search for widths: one threshold over all scores, then single steps, then exchanges of two steps.

The threshold is found by bisection and gives the shape of the network. Because widths move in steps, it leaves a
part of the budget unused: groups are widened step by step, most score per cost first. If the result is still too far
from the budget, one group is narrowed and another widened, as long as the cost comes closer to the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compressor.pruning.graph.cost import Cost, Widths


@dataclass(frozen=True)
class Space:
    """The search space: a cost and its limit; for each group its scores (highest first), least width and step."""

    cost: Cost
    allowed: float
    ranked: Sequence[NDArray[np.float64]]
    least: Widths
    steps: Widths

    def wider(self, widths: Widths, number: int) -> Widths:
        """Widen one group to the next multiple of its step; at most to its full width."""
        width, step = int(widths[number]), int(self.steps[number])
        return self._with(widths, number, min(len(self.ranked[number]), (width // step + 1) * step))

    def narrower(self, widths: Widths, number: int) -> Widths:
        """Narrow one group to the next smaller multiple of its step; at least to its least width."""
        width, step = int(widths[number]), int(self.steps[number])
        return self._with(widths, number, max(self.least[number], (width - 1) // step * step))

    def _with(self, widths: Widths, number: int, width: int) -> Widths:
        changed = widths.copy()
        changed[number] = width
        return changed


def closest(space: Space, *, close: float) -> Widths:
    """The widths within the budget that the three stages find, or slightly above it where that is closer.

    Above it only if more than ``close`` would remain unused otherwise, and by less than ``close``.
    """
    widths = _within(space, close)
    if space.allowed - space.cost.of(widths) > close:
        above = _within(replace(space, allowed=space.allowed + close), close)
        if space.cost.of(above) > space.allowed:
            return above
    return widths


def _within(space: Space, close: float) -> Widths:
    """Threshold and single steps; exchanges only while more than ``close`` of the budget is unused."""
    widths = _filled(space, _by_threshold(space))
    while space.allowed - space.cost.of(widths) > close:
        better = max(_exchanges(space, widths), key=space.cost.of, default=None)
        if better is None:
            break
        widths = _filled(space, better)
    return widths


def smallest_misfit(space: Space, widths: Widths) -> tuple[int, int, int] | None:
    """The cheapest single step that no longer fits: (group, units, price)."""
    now = space.cost.of(widths)
    steps = [
        (number, int((wider - widths).sum()), space.cost.of(wider) - now)
        for number, wider in _single_steps(space, widths)
    ]
    return min(steps, key=lambda step: step[2], default=None)


def round_up(width: int, step: int) -> int:
    """Round the width up to a multiple of the step."""
    return -(-width // int(step)) * int(step)


def _by_threshold(space: Space) -> Widths:
    """The widest choice within the budget that keeps all scores above one threshold."""

    def widths_at(threshold: float) -> Widths:
        return np.array(
            [
                min(len(own), max(low, round_up(int((own >= threshold).sum()), step)))
                for own, low, step in zip(space.ranked, space.least, space.steps, strict=True)
            ],
            dtype=np.int64,
        )

    levels = np.unique(np.concatenate([*space.ranked, [np.inf]]))
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if space.cost.of(widths_at(float(levels[middle]))) <= space.allowed:
            high = middle
        else:
            low = middle + 1
    return widths_at(float(levels[low]))


def _filled(space: Space, widths: Widths) -> Widths:
    """Widen groups by single steps while one fits into the budget, most score per cost first."""
    while True:
        now = space.cost.of(widths)
        best, most = None, -np.inf
        for number, wider in _single_steps(space, widths):
            price = space.cost.of(wider) - now
            if now + price <= space.allowed:
                gained = space.ranked[number][widths[number] : wider[number]].sum() / max(price, 1)
                if gained > most:
                    best, most = wider, gained
        if best is None:
            return widths
        widths = best


def _exchanges(space: Space, widths: Widths) -> Iterator[Widths]:
    """Narrow one group and widen another by one step, wherever that comes closer to the budget and stays within."""
    now = space.cost.of(widths)
    for giver in range(len(widths)):
        lighter = space.narrower(widths, giver)
        if lighter[giver] < widths[giver]:
            for taker, changed in _single_steps(space, lighter):
                if taker != giver and now < space.cost.of(changed) <= space.allowed:
                    yield changed


def _single_steps(space: Space, widths: Widths) -> Iterator[tuple[int, Widths]]:
    """Every group that can still grow, one step wider."""
    for number, own in enumerate(space.ranked):
        if widths[number] < len(own):
            yield number, space.wider(widths, number)
