from __future__ import annotations

import json
import math

import numpy as np
import pytest

from compressor.errors import ExportError
from compressor.exporting import compare

LOGITS = np.array([[4.0, 1.0, -8.0], [0.0, 2.0, 1.0]])
BATCHES = [LOGITS, LOGITS[:1]]


def same(batch: np.ndarray) -> np.ndarray:
    return batch


def test_equal_functions_pass_and_the_samples_are_counted() -> None:
    verdict = compare("same", same, same, BATCHES)

    assert (verdict.passed, verdict.max_abs_error, verdict.samples) == (True, 0.0, 3)
    assert verdict.agreement == 1.0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e10])
def test_the_tolerance_follows_the_scale_of_the_reference(scale: float) -> None:
    batches = [scale * LOGITS]

    near = compare("near", same, lambda y: y + 7e-4 * scale, batches)
    far = compare("far", same, lambda y: y + 9e-4 * scale, batches)

    assert near.tolerance == pytest.approx(8e-4 * scale)
    assert (near.passed, far.passed) == (True, False)


def test_a_small_network_cannot_be_replaced_by_zeros() -> None:
    assert not compare("zeros", same, np.zeros_like, [1e-6 * LOGITS]).passed


def test_one_bad_element_in_the_last_batch_fails() -> None:
    def nearly(batch: np.ndarray) -> np.ndarray:
        return batch if len(batch) > 1 else batch + np.array([0, 0, 0.1])

    verdict = compare("nearly", same, nearly, BATCHES)

    assert not verdict.passed
    assert verdict.max_abs_error == pytest.approx(0.1)
    assert "outside" in verdict.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_value_that_is_not_finite_fails_on_either_side(value: float, side: str) -> None:
    def broken(batch: np.ndarray) -> np.ndarray:
        return np.where(batch == 1.0, value, batch)

    pair = (broken, same) if side == "reference" else (same, broken)
    verdict = compare("broken", *pair, BATCHES)

    assert not verdict.passed
    assert verdict.detail == f"batch 0: 2 of 6 outputs of the {side} are NaN or infinite"


def test_nan_on_both_sides_is_not_equality() -> None:
    def broken(batch: np.ndarray) -> np.ndarray:
        return np.full_like(batch, math.nan)

    assert not compare("nan", broken, broken, BATCHES).passed


def test_another_shape_fails_and_both_shapes_are_named() -> None:
    verdict = compare("shape", same, lambda y: y[:, :1], BATCHES)

    assert not verdict.passed
    assert "(2, 1)" in verdict.detail
    assert "(2, 3)" in verdict.detail


def test_a_near_tie_may_change_place_and_is_reported() -> None:
    tie = [np.array([[1.0, 1.00001]])]

    verdict = compare("tie", same, lambda y: y[:, ::-1], tie)

    assert (verdict.passed, verdict.agreement) == (True, 0.0)


def test_agreement_is_the_share_of_equal_tops() -> None:
    verdict = compare("swapped", same, lambda y: np.vstack([y[:1], -y[1:]]), [LOGITS])

    assert (verdict.passed, verdict.agreement) == (False, 0.5)


def test_one_number_a_sample_can_be_compared() -> None:
    assert compare("column", lambda y: y[:, 0], lambda y: y[:, 0], BATCHES).passed


@pytest.mark.parametrize("batches", [[], [np.empty((0, 3))]], ids=["no batch", "no sample"])
def test_nothing_to_compare_on_is_an_error_and_not_a_pass(batches: list[np.ndarray]) -> None:
    with pytest.raises(ExportError, match="cannot compare `empty`"):
        compare("empty", same, same, batches)


def test_a_verdict_is_json_even_without_a_finite_error() -> None:
    verdict = compare("nan", same, lambda y: y * math.nan, BATCHES)

    shown = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))

    assert shown["max_abs_error"] is None
    assert shown["passed"] is False


def test_every_named_output_is_compared_and_the_worst_is_told() -> None:
    def pair(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": batch, "output_1": batch[:, :1]}

    def off(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": batch, "output_1": batch[:, :1] + 0.1}

    assert compare("pair", pair, pair, BATCHES).passed
    verdict = compare("pair", pair, off, BATCHES)
    assert not verdict.passed
    assert "in `output_1` 0.1" in verdict.detail
    assert verdict.mean_abs_error == pytest.approx(0.1)


def test_a_missing_output_fails_by_name() -> None:
    verdict = compare("less", lambda y: {"a": y, "b": y}, lambda y: {"a": y}, BATCHES)

    assert verdict.detail == "batch 0: the candidate returns a, the reference a, b"


def test_another_direction_fails_where_it_is_asked_for() -> None:
    verdict = compare("turned", same, lambda y: y[:, ::-1], BATCHES, relative_tolerance=9, least_cosine=0.9)

    assert not verdict.passed
    assert "below 0.9" in verdict.detail


def test_two_that_are_zero_everywhere_point_the_same_way() -> None:
    verdict = compare("zero", np.zeros_like, np.zeros_like, BATCHES, least_cosine=0.9)

    assert (verdict.passed, verdict.cosine) == (True, 1.0)
