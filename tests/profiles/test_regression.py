"""Verdict on a slowdown: correct, and wrong no more often than its stated error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from compressor.errors import ProfileError
from compressor.profiling import Launch, Reason, Rule, Timing, decide

QUIET = [0.001, -0.002, 0.0, 0.002, -0.001, 0.001]


def test_no_change_passes_and_a_clear_slowdown_fails() -> None:
    same = decide(QUIET, Rule(), "cpu")
    assert (same.outcome, same.reasons) == ("PASS", ())
    assert same.low < 1 < same.high < 1.025
    slower = decide([each + math.log(1.1) for each in QUIET], Rule(), "cpu")
    assert slower.outcome == "FAIL"
    assert slower.ratio == pytest.approx(1.1, rel=1e-3)
    assert slower.low > 1.025


def test_what_lies_at_the_tolerance_is_undecided_and_says_why() -> None:
    found = decide([each + math.log(1.025) for each in QUIET], Rule(), "wall")
    assert found.outcome == "INCONCLUSIVE"
    assert found.reasons == (
        Reason("undecided", "the tolerance of 2.50% lies within the confidence interval"),
    )


def test_noise_makes_it_undecided_and_the_check_says_what_it_would_have_caught() -> None:
    found = decide([30 * each for each in QUIET], Rule(), "wall")
    assert found.outcome == "INCONCLUSIVE"
    assert found.detectable > 0.1
    assert decide(QUIET, Rule(), "wall").detectable < 0.035


def test_the_interval_is_students() -> None:
    rule = Rule(looks=(6,))
    found = decide(QUIET, rule, "cpu")
    mean, error = np.mean(QUIET), np.std(QUIET, ddof=1) / math.sqrt(6)
    assert math.log(found.high) == pytest.approx(mean + 3.3649 * error, abs=1e-7)
    assert math.log(found.low) == pytest.approx(mean - 3.3649 * error, abs=1e-7)
    assert (
        decide(QUIET, Rule(looks=(6, 12)), "cpu").high > found.high
    )  # the chance of error is divided among the looks


def test_numbers_that_cannot_be_vouched_for_decide_nothing() -> None:
    busy = Reason("host-contended", "the host was busy")
    for shift in (0.0, 1.0):
        found = decide([each + shift for each in QUIET], Rule(), "wall", [busy])
        assert (found.outcome, found.reasons) == ("INCONCLUSIVE", (busy,))
        assert found.to_dict()["reasons"] == [{"code": "host-contended", "text": "the host was busy"}]


def test_too_few_processes_decide_nothing() -> None:
    for few in ([], QUIET[:1], QUIET[:5]):
        found = decide(few, Rule(), "cpu")
        assert found.outcome == "INCONCLUSIVE"
        assert found.reasons[0].code == "too-few-processes"
        assert f"{len(few)} of at least 6 processes" in found.reasons[0].text
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["high"] is None


@pytest.mark.parametrize(("slowdown", "wrong", "most"), [(0.025, "FAIL", 0.0145), (0.0251, "PASS", 0.0145)])
@pytest.mark.parametrize("heavy", [False, True])
def test_errors_are_as_rare_as_promised_where_they_are_likeliest(
    slowdown: float, wrong: str, most: float, heavy: bool
) -> None:
    """4,000 simulated checks with looks: one per cent, and three standard errors for chance; heavy tails too."""
    rng = np.random.default_rng(7)
    rule = Rule()
    found = 0
    for _ in range(4000):
        noise = rng.standard_t(4, 24) if heavy else rng.standard_normal(24)
        ratios = (math.log1p(slowdown) + 0.01 * noise).tolist()
        outcomes = (decide(ratios[:look], rule, "cpu").outcome for look in rule.looks)
        found += next((each for each in outcomes if each != "INCONCLUSIVE"), "") == wrong
    assert found / 4000 <= most


def test_a_process_counts_as_the_median_of_its_pairs() -> None:
    before, after = Timing((1.0, 2.0, 4.0), (1.0, 1.0, 1.0)), Timing((1.1, 2.2, 40.0), (2.0, 2.0, 0.1))
    launch = Launch(before, after)
    assert launch.log_ratio("wall") == pytest.approx(math.log(1.1))
    assert launch.log_ratio("cpu") == pytest.approx(math.log(2))
    with pytest.raises(ProfileError, match="cannot pair 3 samples with 1"):
        Launch(before, Timing((1.0,), (1.0,))).log_ratio("wall")


def test_a_clock_that_saw_no_time_pass_says_nothing_wild() -> None:
    launch = Launch(Timing((1.0,) * 3, (0.0,) * 3), Timing((1.0,) * 3, (0.0,) * 3))
    assert launch.log_ratio("cpu") == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tolerance": -0.1}, "cannot be the tolerance"),
        ({"tolerance": math.nan}, "cannot be the tolerance"),
        ({"error": 0.0}, "chance of error"),
        ({"looks": ()}, "looks"),
        ({"looks": (6, 6)}, "looks"),
        ({"looks": (2,)}, "looks"),
        ({"pairs": 1}, "too few"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Rule(**wrong)  # type: ignore[arg-type]
