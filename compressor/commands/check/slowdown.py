"""Second tier of a check: measure in fresh processes, one after the other, until a verdict or the last look."""

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
"""Share of processes disturbed by other programs above which wall time is not used."""


class LostProcessError(CompressError):
    """A measuring process ended without an answer: killed, out of memory, out of time."""


@dataclass(frozen=True)
class Measured:
    """The verdict, all its samples, and the machine."""

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
    """Launch processes up to each look, and stop at the first look with a verdict.

    On one thread CPU time decides: it does not depend on other programs. On several threads it would include waiting
    threads, and wall time decides, unless the machine was busy. ``invalid``: reasons why no number of this machine can
    decide; one look is measured anyway, to report the numbers.
    """
    clock: ClockName = "cpu" if threads == 1 else "wall"
    answers: list[dict[str, Any]] = []
    launches: list[Launch] = []
    decision = decide([], rule, clock)
    for look in rule.looks:
        lasting_reasons = list(invalid)
        while len(launches) < look:
            try:
                answer = _launched(_order(baseline, candidate, rule, batch, threads, seed=len(launches)))
            except LostProcessError as loss:
                if not launches:
                    raise
                lasting_reasons.append(
                    Reason("too-few-processes", f"after {len(launches)} of {look} processes {loss}")
                )
                break
            answers.append(answer)
            launches.append(Launch(*(_timing(answer[side]) for side in ("baseline", "candidate"))))
            moved(len(launches), rule.looks[-1])
        lasting_reasons += _throttled(answers)
        ratios = [process.log_ratio(clock) for process in launches]
        decision = decide(ratios, rule, clock, [*lasting_reasons, *_busy(launches, clock)])
        # More processes do not help if a reason stays.
        if decision.outcome != "INCONCLUSIVE" or lasting_reasons:
            break
    return Measured(decision, tuple(answers), dict(fingerprint()))


def undecided(rule: Rule, reasons: Sequence[Reason]) -> Measured:
    """Result of a check in which nothing could be measured."""
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
    # The process gets this one's import path: by default it would look into the working folder first, where a
    # user's own `export.py` or another version of this package may be.
    command = [sys.executable, "-P", "-m", "compressor.commands.check.measuring_process"]
    import_path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    try:
        finished = subprocess.run(
            command,
            input=json.dumps(order),
            env={**os.environ, "PYTHONPATH": import_path},
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
        answer = json.loads(finished.stdout)
    except ValueError as error:
        last = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
        raise LostProcessError(f"a measuring process died: {last}") from error
    if "error" in answer:
        raise CompressError(answer["error"], answer["hint"])
    return dict(answer)


def _timing(value: dict[str, Any]) -> Timing:
    return Timing(tuple(value["samples_ms"]), tuple(value["cpu_ms"]))


def _throttled(answers: Sequence[dict[str, Any]]) -> list[Reason]:
    """Summarise all processes with a throttled processor in one reason."""
    reasons = [answer["conditions"]["reasons"] for answer in answers if answer["conditions"]["reasons"]]
    if not reasons:
        return []
    return [Reason("throttled", f"in {len(reasons)} of {len(answers)} processes {reasons[-1][0]['text']}")]


def _busy(launches: list[Launch], clock: ClockName) -> list[Reason]:
    disturbed = sum(launch.contended for launch in launches)
    if clock == "cpu" or disturbed <= BUSY * len(launches):
        return []
    text = f"other programs used the cores in {disturbed} of {len(launches)} processes"
    return [Reason("host-contended", text)]
