from __future__ import annotations

import gc
import json
from collections.abc import Callable

import pytest

from compressor.errors import ProfileError
from compressor.profiling import Clock, Timing, measure, paired_speedup
from compressor.profiling.timing import quantile


class Bench:
    """A machine whose time passes only inside candidates, by as much as a test decides."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0
        self.calls: list[str] = []
        self.clock = Clock(lambda: self.wall, lambda: self.cpu)

    def candidate(self, name: str, wall_ms: float, cpu_ms: float) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.wall += int(wall_ms * 1e6)
            self.cpu += int(cpu_ms * 1e6)

        return call


def test_every_round_calls_every_candidate_once_in_an_order_of_its_own() -> None:
    bench = Bench()
    names = ("teacher", "student", "artifact")
    candidates = {name: bench.candidate(name, 1, 1) for name in names}
    timings = measure(candidates, samples=40, warmup_s=0, clock=bench.clock)
    after_warmup = bench.calls[len(names) :]
    rounds = [tuple(after_warmup[at : at + 3]) for at in range(0, len(after_warmup), 3)]
    assert len(rounds) == 40
    assert all(sorted(one) == sorted(names) for one in rounds)
    assert len(set(rounds)) == 6  # all orders of three occur
    assert list(timings) == list(names)


@pytest.mark.parametrize(("seed", "same"), [(7, True), (8, False)])
def test_the_seed_decides_the_order(seed: int, same: bool) -> None:
    orders = []
    for chosen in (7, seed):
        bench = Bench()
        pair = {name: bench.candidate(name, 1, 1) for name in "ab"}
        measure(pair, samples=30, seed=chosen, clock=bench.clock)
        orders.append(bench.calls)
    assert (orders[0] == orders[1]) is same


def test_samples_are_kept_in_order_with_both_clocks() -> None:
    bench = Bench()
    lengths = iter([9.0, 1.0, 4.0, 2.0])  # the first is the warm-up

    def call() -> None:
        bench.candidate("a", wall := next(lengths), wall / 2)()

    timing = measure({"a": call}, samples=3, warmup_s=0, clock=bench.clock)["a"]
    assert timing == Timing(samples_ms=(1.0, 4.0, 2.0), cpu_ms=(0.5, 2.0, 1.0))
    assert timing.median_ms == 2.0


def test_warm_up_lasts_for_every_candidate_and_is_not_recorded() -> None:
    bench = Bench()
    pair = {"slow": bench.candidate("slow", 50, 50), "fast": bench.candidate("fast", 10, 10)}
    timings = measure(pair, samples=2, warmup_s=0.1, clock=bench.clock)
    assert bench.calls[:12] == ["slow"] * 2 + ["fast"] * 10
    assert len(timings["slow"].samples_ms) == len(timings["fast"].samples_ms) == 2


@pytest.mark.parametrize(
    ("budget_s", "rounds"),
    [(None, 50), (100.0, 50), (2.0, 19), (0.5, 10), (0.0, 10)],
)
def test_a_budget_ends_the_run_after_ten_rounds_at_the_least(budget_s: float | None, rounds: int) -> None:
    bench = Bench()
    timing = measure({"a": bench.candidate("a", 100, 100)}, warmup_s=0, budget_s=budget_s, clock=bench.clock)[
        "a"
    ]
    assert len(timing.samples_ms) == rounds  # 19: the warm-up's one call is in the budget too


def test_a_budget_never_adds_rounds() -> None:
    bench = Bench()
    call = bench.candidate("a", 100, 100)
    timing = measure({"a": call}, samples=3, budget_s=0.0, clock=bench.clock)["a"]
    assert len(timing.samples_ms) == 3


def test_garbage_is_collected_before_and_not_during_the_samples() -> None:
    seen: list[bool] = []
    assert gc.isenabled()
    measure({"a": lambda: seen.append(gc.isenabled())}, samples=2, warmup_s=0)
    assert seen == [True, False, False]
    assert gc.isenabled()


def test_the_collector_is_back_on_after_a_candidate_fails_midway() -> None:
    outcomes = iter([0, 0])
    with pytest.raises(StopIteration):
        measure({"a": lambda: next(outcomes)}, samples=5, warmup_s=0)
    assert gc.isenabled()


def test_the_system_clock_yields_positive_samples() -> None:
    timing = measure({"a": lambda: None}, samples=3, warmup_s=0)["a"]
    assert len(timing.samples_ms) == len(timing.cpu_ms) == 3
    assert min(timing.samples_ms) > 0
    assert min(timing.cpu_ms) >= 0


@pytest.mark.parametrize(
    ("cores_used", "contended"),
    [
        ([1.0] * 20, False),  # one thread, alone
        ([0.9] * 20, False),  # within the limit of 15 %
        ([0.8] * 20, True),  # one thread, always disturbed
        ([3.6] * 20, False),  # a pool of four
        ([3.6] * 8 + [2.0] * 12, True),  # the same pool, usually disturbed
        ([3.6] * 18 + [1.0] * 2, False),  # two bad samples do not move the median
        ([0.0] * 20, True),  # a CPU clock that never moved proves nothing
    ],
)
def test_contended_means_the_usual_sample_got_fewer_cores_than_the_best(
    cores_used: list[float], contended: bool
) -> None:
    timing = Timing((4.0,) * 20, tuple(4.0 * cores for cores in cores_used))
    assert timing.contended is contended


def test_drift_that_hits_both_cancels_in_the_paired_speedup() -> None:
    drift = [1.0 + 0.1 * step for step in range(30)]
    teacher = Timing(tuple(8.0 * by for by in drift), (1.0,) * 30)
    student = Timing(tuple(2.0 * by for by in drift), (1.0,) * 30)
    gain = paired_speedup(teacher, student)
    assert gain.to_dict() == pytest.approx({"median": 4.0, "p10": 4.0, "p90": 4.0})


def test_the_speedup_is_taken_within_rounds() -> None:
    teacher, student = Timing((8.0, 2.0, 9.0), (1.0,) * 3), Timing((4.0, 4.0, 3.0), (1.0,) * 3)
    gain = paired_speedup(teacher, student)  # rounds: 2, 0.5, 3
    assert (gain.median, gain.p10, gain.p90) == pytest.approx((2.0, 0.8, 2.8))


def test_timings_of_different_lengths_are_not_paired() -> None:
    with pytest.raises(ProfileError, match="cannot pair 2 rounds with 1"):
        paired_speedup(Timing((1.0, 2.0), (1.0, 2.0)), Timing((1.0,), (1.0,)))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.1, 1.4), (0.5, 3.0), (0.9, 4.6), (1.0, 5.0)])
def test_quantiles_are_linear_between_neighbours(share: float, value: float) -> None:
    assert quantile([3.0, 1.0, 5.0, 2.0, 4.0], share) == pytest.approx(value)
    assert quantile([6.0], share) == 6.0


def test_a_candidate_that_fails_is_named() -> None:
    def broken() -> None:
        raise ValueError("input `x` is missing")

    with pytest.raises(ProfileError, match="candidate `student` cannot be timed: input `x`"):
        measure({"teacher": lambda: None, "student": broken}, warmup_s=0)


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ProfileError, match="0 candidates"):
        measure({})
    with pytest.raises(ProfileError, match="0 samples"):
        measure({"a": lambda: None}, samples=0)


def test_a_timing_survives_json() -> None:
    timing = Timing((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    assert json.loads(json.dumps(timing.to_dict())) == {
        "median_ms": 2.0,
        "p10_ms": 1.2,
        "p90_ms": 2.8,
        "contended": False,
        "samples_ms": [1.0, 2.0, 3.0],
        "cpu_ms": [1.0, 2.0, 3.0],
    }
