"""Time candidates so that they can be compared on a machine that is not idle.

Timing A for a while and then B also measures changes of the machine between the two: clocks,
heat, other programs. Here every round calls each candidate once, in a freshly shuffled order, so
that a drift affects all alike, and a speed-up is the median of the ratios *within* rounds. Every
sample is kept; none is dropped as an outlier.

A candidate is any callable of no arguments. One that runs on a GPU must synchronise before it
returns. Left out: replication over fresh processes, which a pass-or-fail verdict needs; this
module is one process of it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compressor.errors import ProfileError

MIN_ROUNDS = 10
# A busy thread that waits 15 % of its time for a core: beyond this, wall time includes other programs.
CONTENTION_LIMIT = 1.15


@dataclass(frozen=True)
class Clock:
    """Two counters of nanoseconds: real time, and the CPU time of all threads of this process."""

    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.process_time_ns


@dataclass(frozen=True)
class Timing:
    """All samples of one candidate, in the order of the rounds."""

    samples_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return quantile(self.samples_ms, 0.5)

    @property
    def p10_ms(self) -> float:
        return quantile(self.samples_ms, 0.1)

    @property
    def p90_ms(self) -> float:
        return quantile(self.samples_ms, 0.9)

    @property
    def contended(self) -> bool:
        """True if other programs used the cores in the median sample.

        CPU time over wall time is the number of cores that a sample kept busy. The candidate's
        best (its 90th percentile, and at least one core) is what it can use when undisturbed;
        contended means that the median sample got less than that by more than 15 %.

        Two limits. A pool of threads that loses the *same* share in every sample looks like a smaller
        pool and is not noticed. A candidate that sleeps, or waits for a device without spinning, uses
        less than one core and is reported as contended, because its wall time cannot be verified here.
        """
        cores = [cpu / wall for cpu, wall in zip(self.cpu_ms, self.samples_ms, strict=True)]
        undisturbed = max(1.0, quantile(cores, 0.9))
        return quantile(cores, 0.5) * CONTENTION_LIMIT < undisturbed

    def to_dict(self) -> dict[str, object]:
        return {
            "median_ms": self.median_ms,
            "p10_ms": self.p10_ms,
            "p90_ms": self.p90_ms,
            "contended": self.contended,
            "samples_ms": list(self.samples_ms),
            "cpu_ms": list(self.cpu_ms),
        }


@dataclass(frozen=True)
class Speedup:
    """Ratio of times over the rounds; above 1 the other candidate is faster."""

    median: float
    p10: float
    p90: float

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "p10": self.p10, "p90": self.p90}


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    samples: int = 50,
    warmup_s: float = 0.2,
    seed: int = 0,
    budget_s: float | None = None,
    clock: Clock = Clock(),
) -> dict[str, Timing]:
    """Time all candidates side by side, ``samples`` rounds, each warmed up for ``warmup_s``.

    ``budget_s`` counts from the call, warm-up included: when it is used up no further round
    starts, except that ten rounds (or ``samples``, if fewer) always run.
    """
    if not candidates or samples < 1:
        raise ProfileError(
            f"cannot measure {len(candidates)} candidates with {samples} samples",
            "give at least one candidate and one sample",
        )
    deadline = None if budget_s is None else clock.wall_ns() + int(budget_s * 1e9)
    for name, call in candidates.items():
        _warm_up(name, call, warmup_s, clock)

    recorded: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    with _no_garbage_collection():
        for done in range(samples):
            if deadline is not None and done >= MIN_ROUNDS and clock.wall_ns() >= deadline:
                break
            shuffle(order)
            for name in order:
                recorded[name].append(_time_once(candidates[name], clock))
    return {
        name: Timing(tuple(wall for wall, _ in pairs), tuple(cpu for _, cpu in pairs))
        for name, pairs in recorded.items()
    }


def paired_speedup(reference: Timing, other: Timing) -> Speedup:
    """Quantiles of the ratio reference / other in each round; both must come from one call of `measure`."""
    if len(reference.samples_ms) != len(other.samples_ms):
        raise ProfileError(
            f"cannot pair {len(reference.samples_ms)} rounds with {len(other.samples_ms)}",
            "measure both candidates in one call",
        )
    pairs = zip(reference.samples_ms, other.samples_ms, strict=True)
    ratios = [before / after for before, after in pairs]
    return Speedup(quantile(ratios, 0.5), quantile(ratios, 0.1), quantile(ratios, 0.9))


def quantile(values: Sequence[float], share: float) -> float:
    """Value below which ``share`` of the values lie, linear between neighbours."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _time_once(call: Callable[[], object], clock: Clock) -> tuple[float, float]:
    """One sample in milliseconds of (wall, CPU).

    The CPU clock is read outside the wall clock: reading it is a system call of about half a
    microsecond, which must not lengthen the wall time that users read.
    """
    cpu_start = clock.cpu_ns()
    wall_start = clock.wall_ns()
    call()
    wall_end = clock.wall_ns()
    cpu_end = clock.cpu_ns()
    # A coarse clock may measure zero, and ratios need a divisor.
    return max(wall_end - wall_start, 1) / 1e6, (cpu_end - cpu_start) / 1e6


def _warm_up(name: str, call: Callable[[], object], warmup_s: float, clock: Clock) -> None:
    start = clock.wall_ns()
    try:
        call()
        while clock.wall_ns() - start < warmup_s * 1e9:
            call()
    except Exception as error:
        raise ProfileError(f"candidate `{name}` cannot be timed: {error}") from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not during a sample."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
