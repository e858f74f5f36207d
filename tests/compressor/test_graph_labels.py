"""The ledger: atoms are told apart, joined and frozen, and the classes are those of the joins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compressor.pruning.graph.rules.labels import NOT_A_CHANNEL, Ledger


def ledger_of(size: int) -> Ledger:
    ledger = Ledger()
    ledger.unnamed(size)
    return ledger


def test_every_index_of_every_axis_is_an_atom_that_knows_its_owner() -> None:
    ledger = Ledger()
    first = ledger.register("a", (2, 3))
    second = ledger.register("b", (2, 1))
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
    assert said(ledger) == [None, "first", "second"]


def test_a_reason_counts_for_a_whole_class_and_a_real_one_wins_over_not_a_channel() -> None:
    ledger = ledger_of(4)
    ledger.freeze(np.array([0]), NOT_A_CHANNEL)
    ledger.freeze(np.array([1]), "real")
    ledger.freeze(np.array([3]), NOT_A_CHANNEL)
    ledger.join(np.array([0]), np.array([1]))
    assert said(ledger) == ["real", "real", None, NOT_A_CHANNEL]


def test_whole_axes_are_joined_end_to_end_and_remembered_as_one_family() -> None:
    ledger = Ledger()
    one, other, third = (ledger.register(name, (3,))[0] for name in "abc")
    ledger.join(third, other)
    ledger.join(one, other)
    assert ledger.families() == [0, 0, 0]
    assert ledger.classes().tolist() == [0, 1, 2] * 3
    assert ledger.joined_singly() == []
    assert [ledger.axis_made_by(ids) for ids in (one, other, third)] == [0, 1, 2]
    assert ledger.axis_made_by(one[:2]) is None


def test_a_reversed_axis_is_joined_atom_by_atom() -> None:
    ledger = Ledger()
    one, other = (ledger.register(name, (3,))[0] for name in "ab")
    ledger.join(one, other[::-1])
    assert ledger.families() == [0, 1]
    assert ledger.classes().tolist() == [0, 1, 2, 2, 1, 0]


def test_atoms_of_no_tensor_have_no_name() -> None:
    ledger = Ledger()
    ids = ledger.unnamed(2)
    assert ids.tolist() == [0, 1]
    assert ledger.axes == [("", 0)]


def test_an_empty_ledger_has_no_classes_and_no_reasons() -> None:
    ledger = Ledger()
    assert ledger.classes().size == 0
    assert ledger.families() == []
    assert said(ledger) == []


def said(ledger: Ledger) -> list[str | None]:
    """For every atom why it may not go."""
    classes = ledger.classes()
    numbers, texts = ledger.reasons(classes)
    return [None if numbers[root] < 0 else texts[numbers[root]] for root in classes]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.booleans()), max_size=16),
)
def test_joining_whole_axes_and_joining_their_atoms_give_the_same_classes(
    sizes: list[int], joins: list[tuple[int, int, bool]]
) -> None:
    fast, slow = Ledger(), Ledger()
    axes = [[ledger.unnamed(size) for size in sizes] for ledger in (fast, slow)]
    for left, right, backwards in joins:
        one, other = left % len(sizes), right % len(sizes)
        if sizes[one] == sizes[other]:
            step = -1 if backwards else 1
            fast.join(axes[0][one], axes[0][other] if step == 1 else axes[0][other][::-1])
            for a, b in zip(axes[1][one], axes[1][other][::step], strict=True):
                slow.join(np.array([a]), np.array([b]))
    assert fast.classes().tolist() == slow.classes().tolist()


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
