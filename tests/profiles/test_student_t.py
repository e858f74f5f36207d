"""The quantiles of Student's t, against printed tables and closed forms."""

from __future__ import annotations

import math

import pytest

from compressor.profiling.student_t import cumulative, quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.95, 1, 6.3138), (0.975, 2, 4.3027), (0.99, 5, 3.3649), (0.99, 7, 2.9980), (0.995, 11, 3.1058),
        (0.9975, 23, 3.1040), (0.95, 30, 1.6973), (0.99, 120, 2.3578),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_printed_table(probability: float, freedom: int, expected: float) -> None:
    assert quantile(probability, freedom) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_one_and_two_degrees_of_freedom_have_closed_forms(probability: float) -> None:
    assert quantile(probability, 1) == pytest.approx(
        math.tan(math.pi * (probability - 0.5)), rel=1e-9, abs=1e-12
    )
    expected = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    assert quantile(probability, 2) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5, 23, 200])
def test_the_quantile_is_the_inverse_of_the_probability(freedom: int) -> None:
    for value in (-4.0, -0.3, 0.0, 0.5, 2.0, 4.0):
        assert quantile(cumulative(value, freedom), freedom) == pytest.approx(
            value, rel=1e-7, abs=1e-9
        )  # 1 - p rounds


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_what_has_no_quantile_is_refused(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        quantile(probability, freedom)
