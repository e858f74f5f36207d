"""The ledger: atoms are told apart, joined and frozen, and the classes are those of the joins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressor.graph.labels import Ledger


def ledger_of(size: int) -> Ledger:
    ledger = Ledger()
    ledger.register("weight", (size,))
    return ledger


def test_every_index_of_every_axis_is_an_atom_that_knows_its_owner() -> None:
    ledger = Ledger()
    first = ledger.register("a", (2, 3))
    second = ledger.register("b", (2,))
    assert [first[0].tolist(), first[1].tolist(), second[0].tolist()] == [[0, 1], [2, 3, 4], [5, 6]]
    axis, index = ledger.owners()
    assert [ledger.axes[each] for each in axis] == [("a", 0)] * 2 + [("a", 1)] * 3 + [("b", 0)] * 2
    assert index.tolist() == [0, 1, 0, 1, 2, 0, 1]


def test_what_is_never_joined_is_its_own_class() -> None:
    assert ledger_of(4).classes().tolist() == [0, 1, 2, 3]


def test_joining_broadcasts() -> None:
    ledger = ledger_of(6)
    rows = np.arange(6).reshape(2, 3)
    ledger.join(rows, rows[:1])
    assert ledger.classes().tolist() == [0, 1, 2, 0, 1, 2]


def test_the_first_reason_stays() -> None:
    ledger = ledger_of(3)
    ledger.freeze(np.array([1]), "first")
    ledger.freeze(np.array([1, 2]), "second")
    assert ledger.reasons == {1: "first", 2: "second"}


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60))
def test_classes_are_the_connected_components(size: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(one % size, other % size) for one, other in pairs]
    ledger = ledger_of(size)
    for one, other in pairs:
        ledger.join(np.array([one]), np.array([other]))
    expected = list(range(size))
    for _ in range(size):  # the slow way: the smaller label spreads along every edge
        for one, other in pairs:
            expected[one] = expected[other] = min(expected[one], expected[other])
    assert ledger.classes().tolist() == expected


def test_a_long_chain_joined_backwards_is_one_class() -> None:
    ledger = ledger_of(5000)
    ledger.join(np.arange(4999, 0, -1), np.arange(4998, -1, -1))
    assert not ledger.classes().any()
