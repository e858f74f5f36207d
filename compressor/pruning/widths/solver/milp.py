"""The same problem as a mixed-integer program, for HiGHS: where prices leave a gap or exact elimination is too large.

Every choice of every group is a binary variable, and every table over two groups is a flow between their variables.
It needs scipy (the extra ``solver``), and grows with the product of the widths, so it runs last and for a limited time.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from compressor.pruning.widths.solver.lagrange import Problem

MOST_VARIABLES = 60_000
SECONDS = 30.0
GAP = 1e-3


@dataclass(frozen=True)
class Answer:
    """The best places that HiGHS found, and the bound that it proved."""

    places: list[int]
    bound: float


def is_possible(problem: Problem) -> bool:
    """True if scipy is installed and the program is small enough; tables over three groups cannot be flows."""
    if find_spec("scipy") is None:
        return False
    scopes = {scope for limit in problem.limits for scope in limit.terms}
    if any(len(scope) > 2 for scope in scopes):
        return False
    flows = sum(int(np.prod(problem.choices.shape(scope))) for scope in scopes if len(scope) == 2)
    return flows + sum(len(own) for own in problem.choices.of) <= MOST_VARIABLES


def answered(problem: Problem) -> Answer | None:
    """The solution that HiGHS finds in half a minute; None if it finds none."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    sizes = [len(own) for own in problem.choices.of]
    starts = np.cumsum([0, *sizes])
    pairs = sorted({scope for limit in problem.limits for scope in limit.terms if len(scope) == 2})
    flow_starts = starts[-1] + np.cumsum([0, *(sizes[a] * sizes[b] for a, b in pairs)])
    total = int(flow_starts[-1])
    flow_of = {pair: int(start) for pair, start in zip(pairs, flow_starts[:-1], strict=True)}

    rows: list[int] = []
    columns: list[int] = []
    entries: list[float] = []
    right: list[float] = []

    def equal(of: list[tuple[int, float]], to: float) -> None:
        rows.extend([len(right)] * len(of))
        columns.extend(column for column, _ in of)
        entries.extend(entry for _, entry in of)
        right.append(to)

    for group, size in enumerate(sizes):
        equal([(int(starts[group]) + place, 1.0) for place in range(size)], 1.0)
    for (a, b), start in flow_of.items():
        for i in range(sizes[a]):
            equal(
                [(start + i * sizes[b] + j, 1.0) for j in range(sizes[b])] + [(int(starts[a]) + i, -1.0)], 0.0
            )
        for j in range(sizes[b]):
            equal(
                [(start + i * sizes[b] + j, 1.0) for i in range(sizes[a])] + [(int(starts[b]) + j, -1.0)], 0.0
            )

    limits, room = _limits(problem, starts, flow_of, total)
    worth = np.concatenate([*problem.values, np.zeros(total - int(starts[-1]))])
    matrix = coo_array((entries, (rows, columns)), shape=(len(right), total)).tocsr()
    found = milp(
        -worth,
        integrality=np.concatenate([np.ones(int(starts[-1])), np.zeros(total - int(starts[-1]))]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(matrix, right, right), LinearConstraint(limits, -np.inf, room)],
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    places = [int(np.argmax(found.x[starts[group] : starts[group + 1]])) for group in range(len(sizes))]
    bound = -float(found.mip_dual_bound) if found.mip_dual_bound is not None else np.inf
    return Answer(places, bound)


def _limits(
    problem: Problem, starts: np.ndarray[Any, Any], flow_of: dict[tuple[int, int], int], total: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A row of coefficients for every limit, and its right-hand side after constant terms."""
    limits = np.zeros((len(problem.limits), total))
    room = np.ones(len(problem.limits))
    for number, limit in enumerate(problem.limits):
        for scope, table in limit.terms.items():
            share = table / limit.allowed
            if not scope:
                room[number] -= float(share)
            elif len(scope) == 1:
                limits[number, starts[scope[0]] : starts[scope[0] + 1]] += share
            else:
                start = flow_of[scope[0], scope[1]]
                limits[number, start : start + share.size] += share.ravel()
    return limits, room
