"""Widths within limits: tables say what costs say, and the search is as good as trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.errors import UsageError
from compressor.pruning.graph.channels import ChannelGraph, Factor
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.latency_cost import FileBytes, Grid, Latency, Scaled, TimedLayer
from compressor.pruning.widths.limits import Allowed, _enough, widths_within
from compressor.pruning.widths.solver import milp, solve, terms
from compressor.pruning.widths.solver.elimination import most, order_of
from compressor.pruning.widths.solver.exchanges import improved
from compressor.pruning.widths.solver.feasible import nearest
from compressor.pruning.widths.solver.lagrange import Limit, Problem
from compressor.pruning.widths.solver.solve import Solution
from compressor.pruning.widths.solver.terms import Choices, Terms, looked_up, terms_of
from tests.compressor.networks import images, networks

Scopes = st.sampled_from([(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])


def every_width(graph: ChannelGraph) -> Choices:
    return Choices(tuple(np.arange(1, group.units + 1) for group in graph.groups))


def random_tables(seed: int, sizes: tuple[int, ...], scopes: list[tuple[int, ...]]) -> Terms:
    """Costs that rise with every width, as real ones do."""
    rng = np.random.default_rng(seed)
    tables: Terms = {}
    for scope in scopes:
        table = rng.random([sizes[group] for group in scope])
        for axis in range(table.ndim):
            table = table.cumsum(axis=axis)
        tables[scope] = table
    return tables


def small_problem(seed: int, limits: int = 1) -> Problem:
    """Three groups in a triangle, as in a residual block, with scores that fall."""
    rng = np.random.default_rng(seed)
    sizes = (4, 5, 3)
    values = [np.cumsum(np.sort(rng.random(size))[::-1]) for size in sizes]
    found = []
    for number in range(limits):
        tables = random_tables(seed * 7 + number, sizes, [(0,), (0, 1), (1, 2), (0, 2)])
        top = sum(float(table.max()) for table in tables.values())
        low = sum(float(table.min()) for table in tables.values())
        found.append(Limit(f"cost {number}", tables, low + (top - low) * rng.uniform(0.1, 0.7)))
    return Problem(Choices(tuple(np.arange(1, size + 1) for size in sizes)), values, found)


def best_of_all(problem: Problem) -> float:
    places = itertools.product(*(range(len(own)) for own in problem.choices.of))
    return max((problem.value(each) for each in places if problem.fits(each)), default=-np.inf)


@settings(max_examples=25, deadline=None)
@given(networks(), st.integers(0, 9), st.sampled_from([5, 300_000]))
def test_tables_say_what_the_cost_says_whole_or_taken_apart(
    network: nn.Module, seed: int, largest: int
) -> None:
    graph = trace(network, images(1))
    choices = every_width(graph)
    rng = np.random.default_rng(seed)
    widths = np.array([rng.integers(1, group.units + 1) for group in graph.groups], dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terms, "LARGEST_TABLE", largest)
        for cost in costs_of(graph).values():
            assert looked_up(terms_of(cost, choices), choices, widths) == pytest.approx(cost.of(widths))


@given(st.integers(0, 10_000), st.lists(Scopes, min_size=1, max_size=7, unique=True))
def test_elimination_finds_the_best_of_all_combinations(seed: int, scopes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 2)
    tables: Terms = {scope: rng.standard_normal([sizes[g] for g in scope]) for scope in scopes}
    choices = Choices(tuple(np.arange(size) for size in sizes))
    order = order_of(scopes, choices)
    assert order is not None

    total, places = most(tables, choices, order)

    def worth(at: tuple[int, ...]) -> float:
        return sum(float(table[tuple(at[g] for g in scope)]) for scope, table in tables.items())

    assert total == pytest.approx(max(map(worth, itertools.product(*(range(size) for size in sizes)))))
    assert worth(tuple(places)) == pytest.approx(total)


def test_what_is_too_entangled_is_refused_and_not_tried() -> None:
    choices = Choices(tuple(np.arange(40) for _ in range(8)))
    everyone_with_everyone = list(itertools.combinations(range(8), 2))
    assert order_of(everyone_with_everyone, choices) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_no_choice_beats_the_bound_and_the_answer_is_near_the_best_of_all(seed: int, limits: int) -> None:
    problem = small_problem(seed, limits)
    best = best_of_all(problem)
    assume(best > 0)
    found = solved(problem)
    assert found.bound is not None
    assert found.bound >= best - 1e-9
    assert problem.fits([int(width) - 1 for width in found.widths])
    assert best * 0.9 <= found.value <= best + 1e-9


def solved(problem: Problem) -> Solution:
    """``solve`` over the tables of a problem, with costs that look them up."""

    class Tabled:
        def __init__(self, limit: Limit) -> None:
            self.name, self.tables = limit.name, limit.terms

        def of(self, widths: np.ndarray) -> float:
            return looked_up(self.tables, problem.choices, widths)

        def terms(self, choices: Choices) -> Terms:
            return self.tables

    ranked = [np.diff(own, prepend=0.0) for own in problem.values]
    costs = {limit.name: (Tabled(limit), limit.allowed) for limit in problem.limits}
    return solve.solve(problem.choices, ranked, costs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_steps_and_exchanges_never_leave_the_limits_and_never_lose(seed: int) -> None:
    problem = small_problem(seed)
    start = [0, 0, 0]
    assume(problem.fits(start))
    places = improved(problem, start)
    assert problem.fits(places)
    assert problem.value(places) >= problem.value(start)


@pytest.mark.parametrize("seed", range(8))
def test_highs_finds_the_best_of_all(seed: int) -> None:
    pytest.importorskip("scipy", reason="the extra `solver` is not installed")
    problem = small_problem(seed, limits=2)
    best = best_of_all(problem)
    answer = milp.answered(problem)
    if best == -np.inf:
        assert answer is None
        return
    assert answer is not None
    assert problem.fits(answer.places)
    assert problem.value(answer.places) == pytest.approx(best, rel=2 * milp.GAP)
    assert answer.bound >= best - 1e-6


def test_a_grid_says_what_was_measured_and_is_straight_between() -> None:
    grid = Grid(np.array([8.0, 16.0, 24.0]), np.array([4.0, 8.0]), np.array([[3, 2.5], [2, 4], [5, 6.0]]))
    assert grid.at(np.array(8.0), np.array(4.0)) == 3.0  # more than the wider one beside it
    assert grid.at(np.array(16.0), np.array(4.0)) == 2.0
    assert grid.at(np.array(20.0), np.array(8.0)) == pytest.approx(5.0)
    assert grid.at(np.array(1.0), np.array(1.0)) == grid.ms[0, 0]


def test_where_narrow_layers_cost_more_than_wide_ones_the_cheapest_widths_are_found() -> None:
    """Two layers, each of which is fast at 6 of 8: what is allowed is met there and nowhere else."""
    marks = np.array([1.0, 6.0, 8.0])
    first = TimedLayer(
        "1", Factor(0, ((0, 1),)), Factor(3), Grid(marks, np.array([3.0]), np.array([[5.0], [1.0], [9.0]]))
    )
    second = TimedLayer(
        "2", Factor(0, ((1, 1),)), Factor(3), Grid(marks, np.array([3.0]), np.array([[7.0], [2.0], [8.0]]))
    )
    latency, choices = Latency((first, second), (), 1.0, 17.0, "a test"), Choices((np.arange(1, 9),) * 2)
    ranked = [np.ones(8), np.ones(8)]

    least = solve.least_widths(choices, latency)
    assert least is not None
    assert least.tolist() == [6, 6]
    assert solve.solve(choices, ranked, {"latency": (latency, 3.0)}).widths.tolist() == [6, 6]
    wider = solve.solve(choices, ranked, {"latency": (latency, 11.0)})
    assert wider.value == 14  # 8 and 6 cost 9 + 2, 7 and 7 cost 5 + 5; 8 and 7 cost 9 + 5
    with pytest.raises(
        UsageError, match=r"at least 3.000 ms must stay \(82.4% of the teacher's 17.000 ms can be removed\)"
    ):
        widths_within(ranked, choices, {"latency": Allowed(latency, 2.9, "--max-latency-ms 2.9")})


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_where_limits_pull_apart_an_answer_that_fits_is_never_passed_over(seed: int) -> None:
    """Tables that rise and fall as they like: what fits is not what is narrowest."""
    rng = np.random.default_rng(seed)
    sizes = (4, 5, 3)
    values = [np.cumsum(np.sort(rng.random(size))[::-1]) for size in sizes]
    limits = []
    for number in range(2):
        tables = {
            scope: rng.random([sizes[group] for group in scope]) for scope in [(0,), (0, 1), (1, 2), (0, 2)]
        }
        limits.append(Limit(f"cost {number}", tables, 1.6))
    problem = Problem(Choices(tuple(np.arange(1, size + 1) for size in sizes)), values, limits)
    best = best_of_all(problem)
    found = solved(problem)
    fits = problem.fits([int(width) - 1 for width in found.widths])
    if milp.find_spec("scipy"):
        assert fits == (best > -np.inf)
    if fits:
        assert best * 0.8 <= found.value <= best + 1e-9
    else:
        assert problem.costs(nearest(problem)).max() <= problem.costs([0, 0, 0]).max()


def test_limits_that_cannot_be_met_together_are_refused_with_the_nearest() -> None:
    """Either layer alone can be cheap in one of two costs, and dear in the other."""
    marks = np.array([1.0, 8.0])
    one = Grid(marks, np.array([3.0]), np.array([[1.0], [9.0]]))
    other = Grid(marks, np.array([3.0]), np.array([[9.0], [1.0]]))
    layers = [TimedLayer("1", Factor(0, ((0, 1),)), Factor(3), grid) for grid in (one, other)]
    rising, falling = (Latency((layer,), (), 1.0, 9.0, "a test") for layer in layers)
    choices, ranked = Choices((np.array([1, 8]),)), [np.ones(8)]
    allowed = {
        "latency": Allowed(rising, 4.0, "--max-latency-ms 4"),
        "bytes": Allowed(falling, 4.0, "--set budget.max_bytes=4"),
    }

    with pytest.raises(
        UsageError,
        match=r"that meet --max-latency-ms 4 and --set budget\.max_bytes=4: the nearest",
    ):
        widths_within(ranked, choices, allowed)


@pytest.mark.parametrize(
    ("name", "option", "amount", "hint"),
    [
        ("params", "--max-params 5", 8_655_661.0, "use --max-params 8655661 or more, or "),
        ("latency", "--max-latency-ms 0.1", 0.12341, "use --max-latency-ms 0.124 or more, or "),
        ("bytes", "--set budget.max_bytes=4e+05", 4.1e5, "use --set budget.max_bytes=410000 or more, or "),
        ("latency", "--ratio 0.5", 0.9, "use --ratio 0.099 or less, or "),
        ("latency", "--ratio 0.5", 1.0, ""),
    ],
)
def test_the_way_out_of_a_limit_is_one_that_can_be_met(
    name: str, option: str, amount: float, hint: str
) -> None:
    assert _enough(name, Allowed(a_latency(), 0.0, option), amount, 1.0) == hint


def a_latency() -> Latency:
    """Two layers in a chain of two groups, and something beside them."""
    marks = np.array([1.0, 4.0, 8.0])
    grid = Grid(marks, marks, np.multiply.outer(marks, marks))
    first = TimedLayer("first", Factor(0, ((0, 1),)), Factor(3), Grid(marks, np.array([3.0]), marks[:, None]))
    second = TimedLayer("second", Factor(0, ((1, 1),)), Factor(0, ((0, 1),)), grid)
    return Latency((first, second), (Scaled(0.5, (Factor(0, ((1, 1),)),)),), 2.0, 10.0, "a test")


@pytest.mark.parametrize("widths", [(1, 1), (3, 8), (8, 2)])
def test_latency_in_tables_is_latency(widths: tuple[int, int]) -> None:
    latency, choices = a_latency(), Choices((np.arange(1, 9), np.arange(1, 9)))
    of = np.array(widths, dtype=np.int64)
    assert looked_up(latency.terms(choices), choices, of) == pytest.approx(latency.of(of))
    assert latency.of(of) == pytest.approx(2 * (widths[0] + widths[0] * widths[1] + 0.5 * widths[1]))
    assert latency.scaled(1.5).of(of) == pytest.approx(1.5 * latency.of(of))


def test_a_layer_that_reads_too_many_groups_for_one_table_is_a_line_between_its_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of groups that are concatenated; exact here, because the grid is a plane."""
    monkeypatch.setattr(terms, "LARGEST_TABLE", 100)
    marks = np.array([1.0, 24.0])
    grid = Grid(marks, marks, np.add.outer(marks, 2 * marks))
    layer = TimedLayer("joint", Factor(0, ((0, 1),)), Factor(0, ((0, 1), (1, 1), (2, 1))), grid)
    latency, choices = Latency((layer,), (), 1.0, 1.0, "a test"), Choices((np.arange(1, 9),) * 3)
    for widths in ((1, 1, 1), (8, 8, 8), (2, 7, 5)):
        of = np.array(widths, dtype=np.int64)
        assert looked_up(latency.terms(choices), choices, of) == pytest.approx(latency.of(of))


def test_bytes_follow_the_parameters_and_the_rest_of_the_file() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), images(1))
    params = costs_of(graph)["params"]
    cost = FileBytes(params, 1000)
    full, choices = full_widths(graph), every_width(graph)
    assert cost.of(full) == 4 * params.of(full) + 1000
    assert looked_up(cost.terms(choices), choices, full) == pytest.approx(cost.of(full))
    assert cost.scaled(1.1).of(full) == pytest.approx(1.1 * cost.of(full))
