"""Widths within limits: the possible widths, the limit on each cost, and the result of the search.

A single counted share is met with one threshold over all scores (``threshold``). For latency, or for several limits
at once, no threshold fits all of them: then the widths with the highest sum of scores are searched for instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.errors import CompressError, UsageError
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import Widths, full_widths
from compressor.pruning.scoring.score import macs_of_a_unit
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.solver.solve import Costing, Solution, least_widths, solve
from compressor.pruning.widths.solver.terms import Choices
from compressor.recipe.budget import COST_TITLES, Budget

LIMITS = {"max_macs": "macs", "max_params": "params", "max_bytes": "bytes", "max_latency_ms": "latency"}
"""The cost of each limit of a budget."""

OPTIONS = {
    "max_macs": "--max-macs ",
    "max_params": "--max-params ",
    "max_bytes": "--set budget.max_bytes=",
    "max_latency_ms": "--max-latency-ms ",
}
"""The option of each limit of a budget, up to its number."""

UNITS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "ms", "channels": "channels"}


@dataclass(frozen=True)
class Allowed:
    """The largest allowed value of a cost, and the option that sets it."""

    cost: Costing
    most: float
    option: str


def choices_of(graph: ChannelGraph, least: Widths, steps: Widths) -> Choices:
    """The possible widths of each group: multiples of its step, its least width, and its full width."""
    own = []
    for group, low, step in zip(graph.groups, least.tolist(), steps.tolist(), strict=True):
        marks = np.arange(-(-low // step) * step, group.units + 1, step, dtype=np.int64)
        own.append(np.unique(np.concatenate([[low], marks, [group.units]])))
    return Choices(tuple(own))


def worth_of(graph: ChannelGraph, scores: Scores) -> list[NDArray[np.float64]]:
    """The value of each unit: its score, not divided by its price, because a search accounts for costs itself."""
    if scores.normalise != "per-macs":
        return [scores.of(group.name) for group in graph.groups]
    prices = macs_of_a_unit(graph)
    return [scores.of(group.name) * max(prices[group.name], 1e-300) for group in graph.groups]


def share_kept(graph: ChannelGraph, scores: Scores, widths: Widths) -> float:
    """The share of all scores that the best units of these widths hold."""
    worth = [np.sort(own)[::-1] for own in worth_of(graph, scores)]
    kept = sum(float(own[:width].sum()) for own, width in zip(worth, widths.tolist(), strict=True))
    return kept / max(sum(float(own.sum()) for own in worth), 1e-300)


def allowed_by(graph: ChannelGraph, budget: Budget, costs: Mapping[str, Costing]) -> dict[str, Allowed]:
    """The tightest limit on every cost that has one."""
    full = full_widths(graph)
    found: dict[str, Allowed] = {}
    if budget.remove > 0:
        cost = _known(costs, budget.cost)
        found[budget.cost] = Allowed(cost, cost.of(full) * (1 - budget.remove), f"--ratio {budget.remove:g}")
    for option, limit in budget.limits().items():
        name = LIMITS[option]
        if name not in found or limit < found[name].most:
            found[name] = Allowed(_known(costs, name), limit, f"{OPTIONS[option]}{limit:g}")
    return found


def _known(costs: Mapping[str, Costing], name: str) -> Costing:
    if name not in costs:
        raise CompressError(
            f"cannot choose widths by {COST_TITLES.get(name, name)}: it has not been measured",
            "`compress run` measures it; in Python give `latency=compressor.measure_latency(...)`",
        )
    return costs[name]


def widths_within(
    ranked: Sequence[NDArray[np.float64]], choices: Choices, allowed: Mapping[str, Allowed]
) -> Solution:
    """The widths that keep the highest sum of scores within all limits."""
    widest = np.array([own[-1] for own in choices.of], dtype=np.int64)
    for name, limit in allowed.items():
        least = least_widths(choices, limit.cost)
        if least is None:
            continue
        floor, top = limit.cost.of(least), limit.cost.of(widest)
        if floor > limit.most:
            raise UsageError(
                f"cannot meet {limit.option}: at least {_figure(name, floor)} must stay"
                f" ({1 - floor / top:.1%} of the teacher's {_figure(name, top)} can be removed), "
                f"{_figure(name, limit.most)} are allowed",
                f"{_enough(name, limit, floor, top)}keep fewer modules whole (--keep)",
            )
    found = solve(choices, ranked, {name: (limit.cost, limit.most) for name, limit in allowed.items()})
    if not found.fits:
        amounts = (_figure(name, limit.cost.of(found.widths)) for name, limit in allowed.items())
        raise UsageError(
            f"no widths were found that meet {' and '.join(limit.option for limit in allowed.values())}: "
            f"the nearest have {' and '.join(amounts)}",
            "raise one of these limits",
        )
    return found


def _enough(name: str, limit: Allowed, floor: float, top: float) -> str:
    """The limit that could be met, rounded to the safe side; nothing where no share can go."""
    if not limit.option.startswith("--ratio"):
        option = limit.option.rstrip("0123456789.e+-")
        enough = f"{math.ceil(1000 * floor) / 1000:.3f}" if name == "latency" else str(math.ceil(floor))
        return f"use {option}{enough} or more, or "
    share = math.floor(1000 * (1 - floor / top)) / 1000
    return f"use --ratio {share:g} or less, or " if share > 0 else ""


def _figure(name: str, amount: float) -> str:
    return f"{amount:.3f} ms" if name == "latency" else f"{amount:,.0f} {UNITS[name]}"
