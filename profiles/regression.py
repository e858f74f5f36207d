"""Is the candidate slower than the baseline? PASS, FAIL or INCONCLUSIVE, with a stated chance of being wrong.

The unit of replication is the process: within one, memory layout and clocks stay as they happened to fall, and any
number of samples from it tells only about that one. So several fresh processes each time interleaved pairs; a process
counts as one number, the median of the logarithms of its pairs' ratios; and Student's t over these numbers gives an
interval. The verdict compares the whole interval with the tolerance: a slowdown is only called one, or ruled out, when
chance alone would be at fault in one check of a hundred. Everything in between is said to be undecided.

One may look before all processes have run, and stop when it is decided; the chance of an error is shared among the
looks, since retrying until something is significant is not free.
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
    """``tolerance``: the slowdown that is allowed (0.025 is 2.5 %). ``looks``: after how many processes to decide.

    ``error``: the chance of FAIL where the slowdown is just the tolerance, and of PASS where it is just above it.
    ``pairs``: how often each process runs both.
    """

    tolerance: float = 0.025
    error: float = 0.01
    looks: tuple[int, ...] = (6, 12, 18, 24)
    pairs: int = 40

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 10:
            raise ProfileError(
                f"a slowdown of {self.tolerance:.1%} cannot be the tolerance",
                "give a share from 0, as in 0.025",
            )
        if not 0 < self.error < 0.5:
            raise ProfileError(f"a chance of error of {self.error:g} is not between 0 and 0.5")
        if not self.looks or self.looks[0] < 3 or list(self.looks) != sorted(set(self.looks)):
            raise ProfileError(
                f"the looks {list(self.looks)} are not rising numbers of processes, from 3 at least",
                "three processes are the fewest from which a spread can be told",
            )
        if self.pairs < 5:
            raise ProfileError(f"{self.pairs} pairs in each process are too few", "at least 5")


@dataclass(frozen=True)
class Launch:
    """One process: both candidates, timed in interleaved pairs."""

    baseline: Timing
    candidate: Timing

    def log_ratio(self, clock: ClockName) -> float:
        """The median over the pairs of log(candidate / baseline): above 0 the candidate is slower."""
        before, after = (
            timing.samples_ms if clock == "wall" else timing.cpu_ms
            for timing in (self.baseline, self.candidate)
        )
        if len(before) != len(after) or not before:
            raise ProfileError(f"cannot pair {len(before)} samples with {len(after)}")
        # A coarse clock may see no time pass; half a microsecond is below anything it can tell.
        floor = 5e-4
        return statistics.median(
            math.log(max(b, floor) / max(a, floor)) for a, b in zip(before, after, strict=True)
        )

    @property
    def contended(self) -> bool:
        """Whether other programs took the cores from one of the two."""
        return self.baseline.contended or self.candidate.contended


@dataclass(frozen=True)
class Regression:
    """The verdict, and what it rests on. Ratios are candidate / baseline; above 1 the candidate is slower.

    ``detectable``: the smallest slowdown that a check with this spread would call FAIL 95 times of 100. ``reasons``
    say why nothing could be decided.
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
        """Plain JSON values; what is not known is null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**vars(self), "reasons": [each.to_dict() for each in self.reasons]}.items()
        }


def decide(
    log_ratios: Sequence[float], rule: Rule, clock: ClockName, invalid: Iterable[Reason] = ()
) -> Regression:
    """The verdict from one number of each process. ``invalid``: why these numbers cannot be vouched for."""
    reasons = [*invalid]
    launches = len(log_ratios)
    limit = math.log1p(rule.tolerance)
    if launches < rule.looks[0]:
        ratio = math.exp(statistics.fmean(log_ratios)) if log_ratios else math.nan
        few = f"{launches} of at least {rule.looks[0]} processes ended well"
        reasons.append(Reason("too-few-processes", few))
        return Regression(
            "INCONCLUSIVE", ratio, 0.0, math.inf, rule.tolerance, math.inf, clock, launches, tuple(reasons)
        )
    centre, spread = statistics.fmean(log_ratios), statistics.stdev(log_ratios) / math.sqrt(launches)
    sure = quantile(1 - rule.error / len(rule.looks), launches - 1)
    low, high = centre - sure * spread, centre + sure * spread
    outcome: Outcome = "FAIL" if low > limit else "PASS" if high < limit else "INCONCLUSIVE"
    if reasons:
        outcome = "INCONCLUSIVE"
    elif outcome == "INCONCLUSIVE":
        reasons.append(Reason("undecided", f"the tolerance of {rule.tolerance:.2%} lies within the interval"))
    detectable = math.expm1(limit + (sure + quantile(POWER, launches - 1)) * spread)
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
