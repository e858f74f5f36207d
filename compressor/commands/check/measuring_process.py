"""One process of a measured check: open both files, time interleaved pairs, print every sample as JSON.

It is a separate program (`python -m compressor.commands.check.measuring_process`), because the process is the unit
that must be repeated: the placement of its memory and threads stays the same as long as it runs. It does not import
torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compressor.commands.check.random_inputs import random_feed, refuse_other_inputs, run_finite
from compressor.errors import ExportError, ProfileError
from compressor.exporting import Session, open_session
from compressor.profiling import measure, watching

LEAST_MS = 1.0
"""Least time of a sample: clock and scheduler are too coarse for less."""


def launch(order: Mapping[str, Any]) -> dict[str, Any]:
    """Time ``baseline`` and ``candidate`` with the settings in ``order``."""
    sides = ("baseline", "candidate")
    sessions = {side: open_session(Path(order[side]), threads=order["threads"]) for side in sides}
    refuse_other_inputs(*sessions.values())
    feed = random_feed(sessions["baseline"], order["batch"], order["seed"])
    for session in sessions.values():
        run_finite(session, feed)
    repeats = max(_repeats(session, feed) for session in sessions.values())
    calls = {side: _repeated(session, feed, repeats) for side, session in sessions.items()}
    with watching(gpu=None) as watch:  # both run on the CPU
        timings = measure(calls, samples=order["pairs"], warmup_s=order["warmup_s"], seed=order["seed"])
    return {side: timing.to_dict() for side, timing in timings.items()} | {
        "calls_in_a_sample": repeats,
        "conditions": watch.conditions.to_dict(),
    }


def _repeats(session: Session, feed: Mapping[str, Any]) -> int:
    started = time.perf_counter()
    for _ in range(3):
        session.run(feed)
    one_call = (time.perf_counter() - started) / 3
    return max(1, round(LEAST_MS / 1e3 / one_call + 0.5))


def _repeated(session: Session, feed: Mapping[str, Any], times: int) -> Callable[[], object]:
    def call() -> None:
        for _ in range(times):
            session.run(feed)

    return call


def main() -> None:
    """Read the order from stdin; write the result or the error to stdout."""
    try:
        result = launch(json.load(sys.stdin))
    except (ExportError, ProfileError) as error:
        result = {"error": str(error), "hint": error.hint}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
