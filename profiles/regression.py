"""Decide if the candidate is slower than the baseline: PASS, FAIL or INCONCLUSIVE, with a stated chance of error.

The unit of replication is the process: memory layout and clocks are random and fixed within a process, so any
number of samples from it describes only that process. So several fresh processes each time interleaved pairs; a
process counts as one number, the median of the logarithms of its pairs' ratios; and Student's t over these numbers
gives an interval. The verdict compares the whole interval with the tolerance: a slowdown is claimed, or ruled out,
only if that is wrong by chance in at most one check of a hundred. Everything in between is inconclusive.

A check may look at the numbers before all processes have run, and stop if it can decide; the chance of an error is
divided among the looks, because each look is another chance of a wrong decision.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.errors import ProfileError
from compressor.profiling.reasons import Reason
from compressor.profiling.student_t import quantile
from compressor.profiling.timing import Timing

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ClockName = Literal["wall", "cpu"]
POWER = 0.95


@dataclass(frozen=True)
class Rule:
    """Settings of a check.

    ``tolerance``: the allowed slowdown (0.025 is 2.5 %). ``looks``: numbers of processes after which to decide.
    ``error``: the chance of FAIL if the slowdown equals the tolerance, and of PASS if it is just above it.
    ``pairs``: number of times that each process runs both candidates.
    """

    tolerance: float = 0.025
    error: float = 0.01
    looks: tuple[int, ...] = (6, 12, 18, 24)
    pairs: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 10:
            raise ProfileError(
                f"a slowdown of {self.tolerance:.1%} cannot be the tolerance",
                "give a share from 0 to below 10, as in 0.025",
            )
        if not 0 < self.error < 0.5:
            raise ProfileError(f"a chance of error of {self.error:g} is not between 0 and 0.5")
        if not self.looks or self.looks[0] < 3 or list(self.looks) != sorted(set(self.looks)):
            raise ProfileError(
                f"the looks {list(self.looks)} are not rising numbers of processes, from 3 at least",
                "give at least three processes, the fewest that show a spread",
            )
        if self.pairs < 5:
            raise ProfileError(f"{self.pairs} pairs in each process are too few", "give at least 5")


@dataclass(frozen=True)
class Launch:
    """One process: both candidates, timed in interleaved pairs."""

    baseline: Timing
    candidate: Timing

    def log_ratio(self, clock: ClockName) -> float:
        """Median over the pairs of log(candidate / baseline): above 0 the candidate is slower."""
        before, after = (
            timing.samples_ms if clock == "wall" else timing.cpu_ms
            for timing in (self.baseline, self.candidate)
        )
        if len(before) != len(after) or not before:
            raise ProfileError(f"cannot pair {len(before)} samples with {len(after)}")
        # A coarse clock may measure zero; half a microsecond is below its resolution.
        floor = 5e-4
        return statistics.median(
            math.log(max(b, floor) / max(a, floor)) for a, b in zip(before, after, strict=True)
        )

    @property
    def contended(self) -> bool:
        """True if other programs used the cores while one of the two ran."""
        return self.baseline.contended or self.candidate.contended


@dataclass(frozen=True)
class Regression:
    """The verdict with its numbers. Ratios are candidate / baseline; above 1 the candidate is slower.

    ``detectable``: the smallest slowdown for which a check with this spread gives FAIL 95 times of 100.
    ``reasons``: of an inconclusive verdict.
    """

    outcome: Outcome
    ratio: float
    low: float
    high: float
    tolerance: float
    detectable: float
    clock: ClockName
    launches: int
    reasons: tuple[Reason, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values; unknown numbers are null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {
                **vars(self),
                "reasons": [reason.to_dict() for reason in self.reasons],
            }.items()
        }


def decide(
    log_ratios: Sequence[float], rule: Rule, clock: ClockName, invalid: Iterable[Reason] = ()
) -> Regression:
    """Decide from one number of each process. ``invalid``: reasons why these numbers are not valid."""
    reasons = [*invalid]
    launches = len(log_ratios)
    limit = math.log1p(rule.tolerance)
    if launches < rule.looks[0]:
        ratio = math.exp(statistics.fmean(log_ratios)) if log_ratios else math.nan
        text = f"{launches} of at least {rule.looks[0]} processes finished"
        reasons.append(Reason("too-few-processes", text))
        return Regression(
            "INCONCLUSIVE", ratio, 0.0, math.inf, rule.tolerance, math.inf, clock, launches, tuple(reasons)
        )
    centre, spread = statistics.fmean(log_ratios), statistics.stdev(log_ratios) / math.sqrt(launches)
    # The error is divided by the number of looks, so that all of them together keep it (Bonferroni).
    factor = quantile(1 - rule.error / len(rule.looks), launches - 1)
    low, high = centre - factor * spread, centre + factor * spread
    outcome: Outcome = "FAIL" if low > limit else "PASS" if high < limit else "INCONCLUSIVE"
    if reasons:
        outcome = "INCONCLUSIVE"
    elif outcome == "INCONCLUSIVE":
        reasons.append(
            Reason("undecided", f"the tolerance of {rule.tolerance:.2%} lies within the confidence interval")
        )
    detectable = math.expm1(limit + (factor + quantile(POWER, launches - 1)) * spread)
    return Regression(
        outcome,
        math.exp(centre),
        math.exp(low),
        math.exp(high),
        rule.tolerance,
        detectable,
        clock,
        launches,
        tuple(reasons),
    )
