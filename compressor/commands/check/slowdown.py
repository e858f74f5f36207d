"""The second tier of a check: fresh processes, one after the other, until it is decided or enough is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.commands.check.sides import Side
from compressor.errors import CompressError
from compressor.profiling import Launch, Reason, Regression, Rule, Timing, decide, fingerprint
from compressor.profiling.regression import ClockName

WARMUP_S = 0.3
TIMEOUT_S = 600
BUSY = 0.5
"""The share of processes that other programs may have disturbed before wall time is not believed."""


class LostProcessError(CompressError):
    """A measuring process ended without an answer: killed, out of memory, out of time."""


@dataclass(frozen=True)
class Measured:
    """The verdict, every sample that it rests on, and the machine."""

    regression: Regression
    launches: tuple[dict[str, Any], ...]
    device: dict[str, Any]


def measure_slowdown(
    baseline: Side,
    candidate: Side,
    rule: Rule,
    *,
    batch: int = 1,
    threads: int = 1,
    invalid: Sequence[Reason] = (),
    moved: Callable[[int, int], None] = lambda done, most: None,
) -> Measured:
    """Launch processes up to each look, and stop at the first that decides.

    On one thread CPU time decides: it is what the runtime used, whoever else was on the machine. On several it would
    count waiting threads too, and wall time decides, unless the machine was busy. ``invalid``: why no number from
    here can decide; then one look is taken all the same, for the reader.
    """
    clock: ClockName = "cpu" if threads == 1 else "wall"
    answers: list[dict[str, Any]] = []
    launches: list[Launch] = []
    decision = decide([], rule, clock)
    for look in rule.looks:
        lasting = list(invalid)
        while len(launches) < look:
            try:
                answer = _launched(_order(baseline, candidate, rule, batch, threads, seed=len(launches)))
            except LostProcessError as death:
                if not launches:
                    raise
                lasting.append(
                    Reason("too-few-processes", f"after {len(launches)} of {look} processes {death}")
                )
                break
            answers.append(answer)
            launches.append(Launch(*(_timing(answer[side]) for side in ("baseline", "candidate"))))
            moved(len(launches), rule.looks[-1])
        lasting += _throttled(answers)
        ratios = [each.log_ratio(clock) for each in launches]
        decision = decide(ratios, rule, clock, [*lasting, *_busy(launches, clock)])
        # What more processes cannot mend is not worth their time.
        if decision.outcome != "INCONCLUSIVE" or lasting:
            break
    return Measured(decision, tuple(answers), dict(fingerprint()))


def undecided(rule: Rule, reasons: Sequence[Reason]) -> Measured:
    """Where nothing could be measured."""
    return Measured(decide([], rule, "cpu", reasons), (), dict(fingerprint()))


def _order(
    baseline: Side, candidate: Side, rule: Rule, batch: int, threads: int, seed: int
) -> dict[str, Any]:
    return {
        "baseline": str(baseline.file),
        "candidate": str(candidate.file),
        "batch": batch,
        "threads": threads,
        "pairs": rule.pairs,
        "warmup_s": WARMUP_S,
        "seed": seed,
    }


def _launched(order: dict[str, Any]) -> dict[str, Any]:
    # The process finds what this one found: alone it would look into the working folder first, where a user's own
    # `export.py` may be, or another version of this package.
    command = [sys.executable, "-P", "-m", "compressor.commands.check.measuring_process"]
    places = os.pathsep.join(place or os.getcwd() for place in sys.path)
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            env={**os.environ, "PYTHONPATH": places},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LostProcessError(
            f"a measuring process did not end in {TIMEOUT_S} s", "use a smaller --batch"
        ) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LostProcessError(f"a measuring process died: {last}") from error
    if "error" in answer:
        raise CompressError(answer["error"], answer["hint"])
    return dict(answer)


def _timing(value: dict[str, Any]) -> Timing:
    return Timing(tuple(value["samples_ms"]), tuple(value["cpu_ms"]))


def _throttled(answers: Sequence[dict[str, Any]]) -> list[Reason]:
    """One reason for all processes in which something slowed itself down."""
    said = [each["conditions"]["reasons"] for each in answers if each["conditions"]["reasons"]]
    if not said:
        return []
    return [Reason("throttled", f"in {len(said)} of {len(answers)} processes {said[-1][0]['text']}")]


def _busy(launches: list[Launch], clock: ClockName) -> list[Reason]:
    disturbed = sum(launch.contended for launch in launches)
    if clock == "cpu" or disturbed <= BUSY * len(launches):
        return []
    text = f"other programs took the cores in {disturbed} of {len(launches)} processes"
    return [Reason("host-contended", text)]
