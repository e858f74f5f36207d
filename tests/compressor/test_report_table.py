"""Figures as people read them."""

from __future__ import annotations

import pytest

from compressor.report.report import compared
from compressor.report.table import percent, short


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1 k"),
        (12_288_000, "12.3 M"),
        (1_814_000_000, "1.81 G"),
        (999_600, "1 M"),
        (234, "234"),
    ],
)
def test_a_count_has_three_digits_and_a_unit(number: float, text: str) -> None:
    assert short(number) == text


def test_a_cost_that_the_teacher_does_not_have_has_no_share() -> None:
    assert compared(0, 0)["removed"] is None
    assert percent(None) == "–"
    assert compared(200, 50) == {"teacher": 200, "student": 50, "removed": 0.75}
