"""Choose the widths within the budget that keep the highest scores, as a plan.

At least the requested share is removed. Only where the steps are too coarse may up to one per cent
(absolute) less be removed. Widths are multiples of the granule, because hardware computes the next multiple
anyway. The search itself is in ``threshold.py`` and ``solver``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from compressor.errors import UsageError
from compressor.pruning.graph.channels import ChannelGraph, Group
from compressor.pruning.graph.cost import Cost, Widths, costs_of, full_widths
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.limits import allowed_by, choices_of, share_kept, widths_within, worth_of
from compressor.pruning.widths.plan import Plan, plan_keeping
from compressor.pruning.widths.solver.solve import Costing
from compressor.pruning.widths.solver.terms import Choices
from compressor.pruning.widths.threshold import Space, closest, round_up, smallest_misfit
from compressor.recipe.budget import COST_TITLES, Budget

CLOSE = 0.01
"""Largest difference (absolute share) between requested and reached value that the report does not explain."""


@dataclass(frozen=True)
class Allocation:
    """The plan, and the reason where it misses the budget (``missed``).

    ``kept``: the share of all scores that stays. ``gap``: upper bound on how much more other widths could keep, where
    a search proved one; ``solver``: the solver that chose the widths.
    """

    plan: Plan
    missed: str | None
    kept: float = 1.0
    gap: float | None = None
    solver: str = "threshold"


def allocate(
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    *,
    containing: Plan | None = None,
    measured: Mapping[str, Costing] | None = None,
) -> Allocation:
    """The plan within the budget that keeps the highest scores.

    ``containing``: a plan from the same scores that this one must contain, as an assistant's contains
    its student's. ``measured``: costs that cannot be counted (``latency``, ``bytes``), where the budget limits them.
    """
    costs: dict[str, Costing] = {**costs_of(graph), **(measured or {})}
    full = full_widths(graph)
    steps = np.array([granule_of(group, budget.granule) for group in graph.groups], dtype=np.int64)
    least = _least_widths(graph, steps, budget, containing)
    _check_patterns(graph, budget)
    _check_any_group(graph, budget)
    misfit, gap, solver = None, None, "threshold"
    if budget.is_searched:
        ranked = [np.sort(own)[::-1] for own in worth_of(graph, scores)]
        found = widths_within(ranked, choices_of(graph, least, steps), allowed_by(graph, budget, costs))
        widths, gap, solver = found.widths, found.gap, found.solver
    else:
        cost = costs_of(graph)[budget.of]
        _check_reachable(cost, full, least, budget)
        ranked = [np.sort(scores.of(group.name))[::-1] for group in graph.groups]
        space = Space(cost, cost.of(full) * (1 - budget.remove), ranked, least, steps)
        widths = closest(space, close=CLOSE * cost.of(full))
        misfit = smallest_misfit(space, widths)
    kept = {
        group.name: _highest(scores.of(group.name), width)
        for group, width in zip(graph.groups, widths.tolist(), strict=True)
    }
    plan = plan_keeping(graph, kept)
    plan = replace(plan, costs={name: _before_and_after(each, full, widths) for name, each in costs.items()})
    missed = _why_missed(graph, plan, budget, misfit)
    return Allocation(plan, missed, share_kept(graph, scores, widths), gap, solver)


def _before_and_after(cost: Costing, full: Widths, widths: Widths) -> tuple[int, int]:
    """The cost before and after, in whole numbers: latency in microseconds."""
    scale = 1000 if cost.name == "latency" else 1
    return round(cost.of(full) * scale), round(cost.of(widths) * scale)


def choices_for(graph: ChannelGraph, budget: Budget) -> Choices:
    """The widths that the budget lets each group have."""
    steps = np.array([granule_of(group, budget.granule) for group in graph.groups], dtype=np.int64)
    return choices_of(graph, _least_widths(graph, steps, budget, None), steps)


def _least_widths(graph: ChannelGraph, steps: Widths, budget: Budget, containing: Plan | None) -> Widths:
    least = np.array(
        [_least(group, int(step), budget) for group, step in zip(graph.groups, steps, strict=True)],
        dtype=np.int64,
    )
    if containing is not None:
        inner = [containing.widths[group.name][1] for group in graph.groups]
        least = np.maximum(least, np.array(inner, dtype=np.int64))
    return least


def _check_patterns(graph: ChannelGraph, budget: Budget) -> None:
    """A pattern that fits nothing is a mistake: what was to be kept would be cut in silence."""
    for pattern in budget.keep:
        if not any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for name in graph.shapes):
            raise UsageError(
                f"no module of the network matches the pattern `{pattern}`",
                "`compress inspect` lists the modules; a pattern is a path as in `layer4.0.conv1` or `head.*`",
            )


def _check_any_group(graph: ChannelGraph, budget: Budget) -> None:
    if not graph.groups:
        raise UsageError(
            f"cannot remove {budget.remove:.1%} of the {COST_TITLES[budget.of]}: no channel can be removed",
            "`compress inspect` shows why each of them must stay",
        )


def _check_reachable(cost: Cost, full: Widths, least: Widths, budget: Budget) -> None:
    most = 1 - cost.of(least) / cost.of(full)
    if budget.remove > most:
        largest = math.floor(most * 1000) / 1000
        raise UsageError(
            f"cannot remove {budget.remove:.1%} of the {COST_TITLES[budget.of]}: at most {largest:.1%} can be removed",
            f"use --ratio {largest:g} or less" + (", or keep fewer modules whole" if budget.keep else ""),
        )


def _highest(scores: NDArray[np.float64], width: int) -> tuple[int, ...]:
    """The ``width`` units with the highest scores, in rising order; of equal scores the earlier unit."""
    return tuple(np.sort(np.argsort(-scores, kind="stable")[:width]).tolist())


def _why_missed(
    graph: ChannelGraph, plan: Plan, budget: Budget, misfit: tuple[int, int, int] | None
) -> str | None:
    over = plan.removed(budget.cost) - budget.remove
    if over <= CLOSE or misfit is None:
        return None
    number, units, price = misfit
    return (
        f"removed {budget.remove + over:.1%} instead of {budget.remove:.1%} of the {COST_TITLES[budget.of]}: "
        f"the smallest step left, {units} units of `{graph.groups[number].name}`, "
        f"is {price / plan.costs[budget.cost][0]:.1%}, and no exchange of two steps comes closer"
    )


def granule_of(group: Group, granule: int) -> int:
    """The step of a group in units: ``granule`` channels, or a smaller power of two for a narrow group."""
    channels = group.units * group.channels_per_unit // 4
    step = granule if channels >= granule else 2 ** int(math.log2(max(1, channels)))
    return max(1, step // group.channels_per_unit)


def lives_in(group: Group, pattern: str) -> bool:
    """True if a group has a slot in a module whose path matches the pattern, or in a submodule of it."""
    return any(
        fnmatchcase(slot.tensor, pattern) or fnmatchcase(slot.tensor, f"{pattern}.*") for slot in group.slots
    )


def _least(group: Group, step: int, budget: Budget) -> int:
    """The smallest number of units that the group keeps."""
    if any(lives_in(group, pattern) for pattern in budget.keep):
        return group.units
    units = max(1, math.ceil(group.units * budget.keep_at_least))
    return min(group.units, round_up(units, step))
