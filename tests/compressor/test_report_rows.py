"""Figures as people read them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from compressor.run.report.report import Report, compared
from compressor.run.report.report_rows import percent, short


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


def report_with(teacher: float, student: float, **more: Any) -> Report:
    empty: dict[str, Any] = {each.name: {} for each in fields(Report)}
    right = {"metric": "top-1", "teacher": teacher, "student": student}
    known = {"accuracy": right, "checks": [], "repairs": [], "model": {"name": "net", "classes": 10}}
    return Report(**{**empty, **known, **more})


@pytest.mark.parametrize(
    ("teacher", "student", "said"),
    [
        (0.98, 0.90, None),
        (0.984, 0.389, "the student is 59.5 points below its teacher: top-1 38.9% against 98.4%"),
        (0.19, 0.12, "the student is no better than chance: top-1 12.0% against 19.0%"),
        (0.10, 0.10, None),  # a teacher that guesses too
    ],
)
def test_a_student_far_below_its_teacher_is_told_in_the_first_words(
    teacher: float, student: float, said: str | None
) -> None:
    report = report_with(teacher, student)
    assert report.shortfall == said
    expected = "all checks passed" if said is None else f"{said} (all checks passed)".replace("%", " %")
    assert report.verdict == expected


def test_what_would_help_names_how_many_images_the_repair_had() -> None:
    assert "now 0" in report_with(0.9, 0.1).remedies
    assert "now 512" in report_with(0.9, 0.1, repairs=[{"images": 512}]).remedies
