"""Widths that meet every limit at once, where the narrowest do not: a measured cost may rise as layers get narrower.

Each cost, as a share of its limit, gets a weight; the widths of the least weighted sum are found exactly, and the
weights of costs above their limits are raised.
"""

from __future__ import annotations

import numpy as np

from compressor.pruning.widths.solver.elimination import cheapest, order_of
from compressor.pruning.widths.solver.lagrange import Problem
from compressor.pruning.widths.solver.terms import Terms, add

ROUNDS = 60
STEP = 4.0


def nearest(problem: Problem) -> list[int]:
    """The places whose largest cost, as a share of its limit, is least among those that the weights give."""
    best = [0] * len(problem.choices)
    if problem.fits(best):
        return best
    order = order_of([scope for limit in problem.limits for scope in limit.terms], problem.choices)
    if order is None:
        return best
    weights = np.ones(len(problem.limits))
    for _ in range(ROUNDS):
        terms: Terms = {}
        for weight, limit in zip(weights / weights.sum(), problem.limits, strict=True):
            for scope, table in limit.terms.items():
                add(terms, scope, table * (weight / limit.allowed))
        places = cheapest(terms, problem.choices, order)
        costs = problem.costs(places)
        if costs.max() < problem.costs(best).max():
            best = places
        if problem.fits(places) or len(weights) == 1:
            break
        weights = weights * np.exp(STEP * (costs - costs.max()))
    return best
