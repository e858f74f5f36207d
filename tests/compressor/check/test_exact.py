"""Comparisons that need the files alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compressor.commands.check.exact import Limits, compare_exactly
from compressor.commands.check.sides import Side, read_side
from compressor.errors import UsageError
from tests.compressor.check.files import network


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return read_side(str(network(tmp_path / "one.onnx")))


def failed(baseline: Side, candidate: Side, limits: Limits | None = None) -> list[str]:
    found = compare_exactly(baseline, candidate, limits or Limits())
    return [finding.name for finding in found if not finding.passed]


def test_the_same_file_passes(side: Side) -> None:
    assert failed(side, side) == []


@pytest.mark.parametrize(
    ("field", "title"), [("macs", "MACs"), ("params", "parameters"), ("bytes", "file bytes")]
)
def test_growth_is_allowed_up_to_the_limit(side: Side, field: str, title: str) -> None:
    base = replace(side, **{field: 1000})
    assert failed(base, replace(side, **{field: 1010})) == []
    assert failed(base, replace(side, **{field: 1011})) == [title]
    assert failed(base, replace(side, **{field: 1011}), Limits(growth=0.02)) == []
    assert failed(base, replace(side, **{field: 10})) == []


def test_the_size_of_the_file_has_a_limit_of_its_own(side: Side) -> None:
    assert failed(side, side, Limits(bytes=side.bytes)) == []
    assert failed(side, side, Limits(bytes=side.bytes - 1)) == ["file bytes at most"]


def test_new_operators_are_told_by_their_names(side: Side) -> None:
    changed = replace(side, operators={**side.operators, "Transpose": 2})
    (finding,) = (each for each in compare_exactly(side, changed, Limits()) if not each.passed)
    assert (finding.name, finding.detail) == ("operators", "Transpose 0 → 2")


def test_widths_off_the_granule_must_not_become_more(side: Side) -> None:
    off = replace(side, widths=(32, 33, 32))
    assert failed(side, off) == ["layers off the granule of 8"]
    assert failed(off, off) == []
    assert failed(side, replace(side, widths=(32, 31, 3))) == []  # too narrow to count
    assert failed(side, off, Limits(granule=11)) == []


def test_accuracy_is_compared_in_points_where_both_sides_know_it(side: Side) -> None:
    good = replace(side, accuracy=0.93)
    assert failed(good, replace(side, accuracy=0.925)) == []
    assert failed(good, replace(side, accuracy=0.924)) == ["top-1 lost, points"]
    assert failed(good, replace(side, accuracy=0.90), Limits(accuracy_drop=5)) == []
    assert failed(good, side) == []
    with pytest.raises(UsageError, match=r"the accuracy of `.*one.onnx` is not known"):
        compare_exactly(good, side, Limits(accuracy_drop=0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"growth": -0.1},
        {"growth": float("nan")},
        {"accuracy_drop": -1},
        {"bytes": 0},
        {"granule": 0},
        {"output_error": -1e-3},
        {"output_error": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected at least"):
        Limits(**wrong)  # type: ignore[arg-type]
