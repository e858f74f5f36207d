"""The search for widths: inside the budget, close to it, and never a worse choice than the threshold's."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressor.pruning.graph.cost import Cost
from compressor.pruning.widths.threshold import Space, closest, round_up, smallest_misfit


def chain(units: list[int], steps: list[int], allowed: float, seed: int = 0) -> Space:
    """Layers one after the other: each costs what it reads times what it writes."""
    random = np.random.default_rng(seed)
    groups, layers = len(units), len(units) + 1
    constants = np.zeros((layers, 2))
    times = np.zeros((layers, 2, groups))
    for layer in range(layers):
        for factor, group in enumerate((layer - 1, layer)):
            if 0 <= group < groups:
                times[layer, factor, group] = 1
            else:
                constants[layer, factor] = 3
    cost = Cost("macs", np.full(layers, 10.0), constants, times)
    ranked = [np.sort(random.random(size))[::-1] for size in units]
    return Space(cost, allowed, ranked, np.ones(groups, dtype=np.int64), np.array(steps, dtype=np.int64))


@settings(max_examples=200, deadline=None)
@example(units=[35, 4, 4, 4, 8], share=0.25, step=2, seed=0)  # a least width of 1 once led to 3
@given(
    units=st.lists(st.integers(4, 40), min_size=1, max_size=6),
    share=st.floats(0.25, 0.95),
    step=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_widths_stay_within_the_budget_and_on_the_granule(
    units: list[int], share: float, step: int, seed: int
) -> None:
    full = chain(units, [step] * len(units), 0, seed).cost.of(np.array(units))
    space = chain(units, [step] * len(units), share * full, seed)
    if space.cost.of(space.least) > space.allowed:
        return
    close = 0.01 * full
    widths = closest(space, close=close)
    assert space.cost.of(widths) <= space.allowed + close
    for width, size in zip(widths.tolist(), units, strict=True):
        assert 1 <= width <= size
        assert width in (1, size) or width % step == 0
    if space.cost.of(widths) <= space.allowed:
        misfit = smallest_misfit(space, widths)
        assert misfit is None or space.cost.of(widths) + misfit[2] > space.allowed


def test_an_exchange_comes_closer_where_no_single_step_fits() -> None:
    space = Space(
        cost=Cost("params", np.ones(2), np.zeros((2, 1)), np.array([[[10.0, 0]], [[0, 13.0]]])),
        allowed=34.0,
        # The first group scores higher everywhere, so the threshold fills it first: 30 of 34, and no 13 fits.
        ranked=[np.array([9.0, 8.0, 7.0]), np.array([3.0, 2.0, 1.0, 0.5])],
        least=np.zeros(2, dtype=np.int64),
        steps=np.ones(2, dtype=np.int64),
    )
    assert space.cost.of(closest(space, close=100.0)) == 30
    assert space.cost.of(closest(space, close=0.5)) == 33  # 2 x 10 + 13


def test_the_highest_scores_are_kept_when_costs_are_alike() -> None:
    space = Space(
        cost=Cost("channels", np.ones(2), np.zeros((2, 1)), np.array([[[1.0, 0]], [[0, 1.0]]])),
        allowed=4.0,
        ranked=[np.array([9.0, 8.0, 7.0, 0.1]), np.array([5.0, 0.4, 0.3, 0.2])],
        least=np.ones(2, dtype=np.int64),
        steps=np.ones(2, dtype=np.int64),
    )
    assert closest(space, close=0.0).tolist() == [3, 1]


def test_rounding_up_keeps_multiples() -> None:
    assert [round_up(width, 8) for width in (0, 1, 8, 9)] == [0, 8, 8, 16]


def test_a_budget_that_steps_jump_over_is_exceeded_by_less_than_asked() -> None:
    space = Space(
        cost=Cost("params", np.ones(1), np.zeros((1, 1)), np.array([[[10.0]]])),
        allowed=29.9,
        ranked=[np.array([3.0, 2.0, 1.0])],
        least=np.ones(1, dtype=np.int64),
        steps=np.ones(1, dtype=np.int64),
    )
    assert closest(space, close=0.5).tolist() == [3]
    assert closest(space, close=0.05).tolist() == [2]
    assert closest(space, close=20.0).tolist() == [2]
